// y = gain * leaky_relu(x + bias, slope) and its derivative, over tensors without gaps in memory.
//
// A tensor without gaps, whatever the order of its axes, is a row of `count` elements in which the channel of
// element i is (i / inner) % channels: inner = H*W for NCHW, 1 for channels-last. A thread moves 16 bytes at a time.
// Arithmetic is in float; the result is rounded once. Compiled once per element type, -DELEMENT=float, half_t or bfloat_t.
#include "elements.cuh"

struct BiasLeakyReLU {
    const void* x;
    const float* bias;  // [channels]
    void* y;
    i64 count, inner, channels;
    float slope, gain;
};

struct LeakyReLUGradient {
    const void* dy;
    const void* y;  // the result of the forward pass: its sign is that of x + bias, as gain > 0 and slope >= 0
    void* dx;
    i64 count;
    float slope, gain;
};

constexpr int THREADS = 256;

__device__ inline i64 channel_of(const BiasLeakyReLU& p, i64 i) {
    const i64 period = divide(i, p.inner);
    return period - divide(period, p.channels) * p.channels;
}

// The biases of the N elements from i on; i is a multiple of N.
template <int N>
__device__ inline void biases(float (&out)[N], const BiasLeakyReLU& p, i64 i) {
    if (p.inner % N == 0) {  // NCHW: one channel
        const float bias = p.bias[channel_of(p, i)];
#pragma unroll
        for (int k = 0; k < N; ++k) out[k] = bias;
    } else if (p.inner == 1 && p.channels % N == 0 && aligned<float, 4>(p.bias)) {  // channels-last
        const float* first = p.bias + channel_of(p, i);
#pragma unroll
        for (int k = 0; k < N; k += 4) {
            const Vector<float, 4> four = *reinterpret_cast<const Vector<float, 4>*>(first + k);
#pragma unroll
            for (int j = 0; j < 4; ++j) out[k + j] = four.at[j];
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; ++k) out[k] = p.bias[channel_of(p, i + k)];
    }
}

__device__ inline float activate(float value, float slope, float gain) {
    return (value > 0.0f ? value : value * slope) * gain;
}

template <typename T>
__device__ void forward(const BiasLeakyReLU& p) {
    constexpr int N = 16 / sizeof(T);
    typedef Vector<T, N> Row;
    const T* x = static_cast<const T*>(p.x);
    T* y = static_cast<T*>(p.y);
    const bool whole = aligned<T, N>(x) && aligned<T, N>(y);
    const i64 step = i64(gridDim.x) * THREADS * N;
    for (i64 i = (i64(blockIdx.x) * THREADS + threadIdx.x) * N; i < p.count; i += step) {
        float bias[N];
        biases<N>(bias, p, i);
        if (whole && i + N <= p.count) {
            Row row = *reinterpret_cast<const Row*>(x + i);
#pragma unroll
            for (int k = 0; k < N; ++k) store(row.at[k], activate(to_float(row.at[k]) + bias[k], p.slope, p.gain));
            *reinterpret_cast<Row*>(y + i) = row;
        } else {
            for (int k = 0; k < N && i + k < p.count; ++k)
                store(y[i + k], activate(to_float(x[i + k]) + bias[k], p.slope, p.gain));
        }
    }
}

template <typename T>
__device__ void gradient(const LeakyReLUGradient& p) {
    constexpr int N = 16 / sizeof(T);
    typedef Vector<T, N> Row;
    const T *dy = static_cast<const T*>(p.dy), *y = static_cast<const T*>(p.y);
    T* dx = static_cast<T*>(p.dx);
    const bool whole = aligned<T, N>(dy) && aligned<T, N>(y) && aligned<T, N>(dx);
    const float below = p.gain * p.slope;
    const i64 step = i64(gridDim.x) * THREADS * N;
    for (i64 i = (i64(blockIdx.x) * THREADS + threadIdx.x) * N; i < p.count; i += step) {
        if (whole && i + N <= p.count) {
            const Row sign = *reinterpret_cast<const Row*>(y + i);
            Row row = *reinterpret_cast<const Row*>(dy + i);
#pragma unroll
            for (int k = 0; k < N; ++k)
                store(row.at[k], to_float(row.at[k]) * (to_float(sign.at[k]) > 0.0f ? p.gain : below));
            *reinterpret_cast<Row*>(dx + i) = row;
        } else {
            for (int k = 0; k < N && i + k < p.count; ++k)
                store(dx[i + k], to_float(dy[i + k]) * (to_float(y[i + k]) > 0.0f ? p.gain : below));
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) bias_leaky_relu(const BiasLeakyReLU p) { forward<ELEMENT>(p); }
extern "C" __global__ void __launch_bounds__(THREADS) leaky_relu_gradient(const LeakyReLUGradient p) {
    gradient<ELEMENT>(p);
}
