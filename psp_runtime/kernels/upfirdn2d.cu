// Upsample, FIR filter, downsample (docs/ops.md has the derivation):
//
//     y[b,c,i,j] = gain * sum_uv taps[u,v] * z[b,c, i*down + u - pad_top, j*down + v - pad_left]
//     z[b,c,r,s] = x[b,c, r/up, s/up] where up divides r and s and the sample exists, else 0
//
// taps is the FIR turned by 180 degrees (a convolution), or as it is where `flip` is set.
//
// Three forms: `general` for everything, one output per thread; `tiled` for a 4x4 FIR over planes, through shared
// memory; `channels_last` for a 4x4 FIR over channels-last tensors. Sums are in float, indices in 64 bit.
// Compiled once per element type, -DELEMENT=float, half_t or bfloat_t: a driver compiles only the one it needs.
#include "elements.cuh"

struct Upfirdn2d {
    const void* x;     // [batch,channels,height,width]
    const float* fir;  // [fir_height,fir_width]
    void* y;           // [batch,channels,out_height,out_width]
    i64 batch, channels, height, width, out_height, out_width;
    i64 x_strides[4], y_strides[4];  // in elements
    i64 fir_height, fir_width, up, down, pad_top, pad_left;
    i64 flip, channels_last;  // 0 or 1; channels_last: neighbouring threads take neighbouring channels
    double gain;
};

constexpr int THREADS = 128, FIR = 4;

#define KERNEL(name, function) \
    extern "C" __global__ void __launch_bounds__(THREADS) name(const Upfirdn2d p) { function(p); }

struct Place {
    i64 batch, channel, row, column;
};

// The remainder of `rest` by `size`; `rest` keeps the quotient.
__device__ inline i64 take(i64& rest, i64 size) {
    const i64 quotient = divide(rest, size), remainder = rest - quotient * size;
    rest = quotient;
    return remainder;
}

__device__ inline i64 offset(const i64 (&strides)[4], const Place& at) {
    return at.batch * strides[0] + at.channel * strides[1] + at.row * strides[2] + at.column * strides[3];
}

__device__ inline float tap(const Upfirdn2d& p, i64 u, i64 v) {
    const i64 row = p.flip ? u : p.fir_height - 1 - u, column = p.flip ? v : p.fir_width - 1 - v;
    return p.fir[row * p.fir_width + column] * float(p.gain);
}

template <typename T>
__device__ void general(const Upfirdn2d& p) {
    const i64 count = p.batch * p.channels * p.out_height * p.out_width;
    for (i64 i = i64(blockIdx.x) * THREADS + threadIdx.x; i < count; i += i64(gridDim.x) * THREADS) {
        i64 rest = i;
        Place at;
        if (p.channels_last) at.channel = take(rest, p.channels);
        at.column = take(rest, p.out_width);
        at.row = take(rest, p.out_height);
        if (!p.channels_last) at.channel = take(rest, p.channels);
        at.batch = rest;
        // Only every up-th tap meets a sample that is not an inserted zero: the first, and the sample it meets.
        const i64 top = at.row * p.down - p.pad_top, left = at.column * p.down - p.pad_left;
        const i64 u0 = modulo(-top, p.up), v0 = modulo(-left, p.up);
        const i64 row0 = (top + u0) / p.up, column0 = (left + v0) / p.up;
        const T* x = static_cast<const T*>(p.x) + at.batch * p.x_strides[0] + at.channel * p.x_strides[1];
        float sum = 0.0f;
        for (i64 u = u0, row = row0; u < p.fir_height; u += p.up, ++row) {
            if (row < 0 || row >= p.height) continue;
            for (i64 v = v0, column = column0; v < p.fir_width; v += p.up, ++column)
                if (column >= 0 && column < p.width)
                    sum += tap(p, u, v) * to_float(x[row * p.x_strides[2] + column * p.x_strides[3]]);
        }
        store(static_cast<T*>(p.y)[offset(p.y_strides, at)], sum);
    }
}

// The 16 taps with their gain into shared memory. Every thread of the block calls this once.
__device__ inline void stage(float (&taps)[FIR][FIR], const Upfirdn2d& p) {
    const int k = threadIdx.x;
    if (k < FIR * FIR) taps[k / FIR][k % FIR] = tap(p, k / FIR, k % FIR);
    __syncthreads();
}

// A block takes 32*X by 4*Y outputs of one plane, a thread X by Y of them. Its samples go to shared memory as floats;
// a thread then reads every row it needs once and adds it to all of its outputs.
//
// Tiles start where an output's first tap meets a sample, up to `UP - 1` outputs before the picture, so that which
// taps meet samples is known when this is compiled.
template <typename T, int UP, int DOWN, int X, int Y>
__device__ void tiled(const Upfirdn2d& p) {
    constexpr int ACROSS = 32, ALONG = THREADS / ACROSS;
    constexpr int STEP_X = X * DOWN / UP, STEP_Y = Y * DOWN / UP;  // samples from one thread to the next
    constexpr int NEED_X = ((X - 1) * DOWN + FIR - 1) / UP + 1, NEED_Y = ((Y - 1) * DOWN + FIR - 1) / UP + 1;
    constexpr int COLUMNS = (ACROSS + 1) * STEP_X, ROWS = (ALONG - 1) * STEP_Y + NEED_Y;
    static_assert(X * DOWN % UP == 0 && Y * DOWN % UP == 0 && NEED_X <= 2 * STEP_X, "a thread reads two vectors");
    typedef Vector<float, STEP_X> Samples;

    alignas(16) __shared__ float tile[ROWS][COLUMNS];
    __shared__ float taps[FIR][FIR];
    stage(taps, p);
    float f[FIR][FIR];
#pragma unroll
    for (int k = 0; k < FIR * FIR; ++k) f[k / FIR][k % FIR] = taps[k / FIR][k % FIR];

    const int across = threadIdx.x % ACROSS, along = threadIdx.x / ACROSS;
    const i64 shift_x = modulo(-p.pad_left, UP), shift_y = modulo(-p.pad_top, UP);
    const i64 tiles_x = (p.out_width + shift_x + ACROSS * X - 1) / (ACROSS * X);
    const i64 tiles_y = (p.out_height + shift_y + ALONG * Y - 1) / (ALONG * Y);
    const i64 tiles = p.batch * p.channels * tiles_y * tiles_x;
    for (i64 number = blockIdx.x; number < tiles; number += gridDim.x) {
        i64 rest = number;
        const i64 left = take(rest, tiles_x) * (ACROSS * X) - shift_x;  // the tile's first output
        const i64 top = take(rest, tiles_y) * (ALONG * Y) - shift_y;
        const i64 channel = take(rest, p.channels), batch = rest;

        const T* x = static_cast<const T*>(p.x) + batch * p.x_strides[0] + channel * p.x_strides[1];
        const i64 column0 = (left * DOWN - p.pad_left) / UP, row0 = (top * DOWN - p.pad_top) / UP;  // exact
#pragma unroll 3
        for (int r = along; r < ROWS; r += ALONG) {
            const i64 row = row0 + r;
            const bool inside = row >= 0 && row < p.height;
#pragma unroll
            for (int c = across; c < COLUMNS; c += ACROSS) {
                const i64 column = column0 + c;
                const bool exists = inside && column >= 0 && column < p.width;
                tile[r][c] = exists ? to_float(x[row * p.x_strides[2] + column * p.x_strides[3]]) : 0.0f;
            }
        }
        __syncthreads();

        float sums[Y][X] = {};
#pragma unroll
        for (int r = 0; r < NEED_Y; ++r) {
            const Samples* vectors = reinterpret_cast<const Samples*>(tile[along * STEP_Y + r]) + across;
            const Samples near = vectors[0], far = vectors[1];
#pragma unroll
            for (int y = 0; y < Y; ++y) {
                const int u = r * UP - y * DOWN;
                if (u < 0 || u >= FIR) continue;
#pragma unroll
                for (int c = 0; c < NEED_X; ++c)
#pragma unroll
                    for (int i = 0; i < X; ++i) {
                        const int v = c * UP - i * DOWN;
                        if (v < 0 || v >= FIR) continue;
                        sums[y][i] += f[u][v] * (c < STEP_X ? near.at[c % STEP_X] : far.at[c % STEP_X]);
                    }
            }
        }

        const i64 column = left + across * X;
        for (int y = 0; y < Y; ++y) {
            const i64 row = top + along * Y + y;
            if (row < 0 || row >= p.out_height) continue;
            T* to = static_cast<T*>(p.y) + offset(p.y_strides, Place{batch, channel, row, column});
            if (column >= 0 && column + X <= p.out_width && p.y_strides[3] == 1 && aligned<T, X>(to)) {
                Vector<T, X> vector;
#pragma unroll
                for (int i = 0; i < X; ++i) store(vector.at[i], sums[y][i]);
                *reinterpret_cast<Vector<T, X>*>(to) = vector;
            } else {
                for (int i = 0; i < X; ++i)
                    if (column + i >= 0 && column + i < p.out_width) store(to[i * p.y_strides[3]], sums[y][i]);
            }
        }
        __syncthreads();  // the next tile overwrites the samples
    }
}

// A thread takes 16 bytes of neighbouring channels of X neighbouring outputs. Neighbouring threads take neighbouring
// channels, so that every access of a warp is whole; what outputs share comes from the first-level cache. The launch
// plan sees to it that channels, strides and addresses are multiples of 16 bytes.
template <typename T, int UP, int DOWN, int X>
__device__ void channels_last(const Upfirdn2d& p) {
    constexpr int N = 16 / sizeof(T), NEED_X = ((X - 1) * DOWN + FIR - 1) / UP + 1;
    static_assert(X * DOWN % UP == 0, "a strip starts where a tap meets a sample");
    typedef Vector<T, N> Channels;
    __shared__ float taps[FIR][FIR];
    stage(taps, p);

    const i64 shift = modulo(-p.pad_left, UP), strips = (p.out_width + shift + X - 1) / X;
    const i64 groups = p.channels / N, count = p.batch * p.out_height * strips * groups;
    for (i64 number = i64(blockIdx.x) * THREADS + threadIdx.x; number < count; number += i64(gridDim.x) * THREADS) {
        i64 rest = number;
        const i64 channel = take(rest, groups) * N, left = take(rest, strips) * X - shift;
        const i64 out_row = take(rest, p.out_height), batch = rest;
        const i64 top = out_row * DOWN - p.pad_top, column0 = (left * DOWN - p.pad_left) / UP;  // exact
        const int u0 = int(modulo(-top, UP));
        const i64 row0 = (top + u0) / UP;
        const T* x = static_cast<const T*>(p.x) + batch * p.x_strides[0] + channel * p.x_strides[1];

        float sums[X][N] = {};
#pragma unroll
        for (int k = 0; k < FIR / UP; ++k) {
            const i64 row = row0 + k;
            if (row < 0 || row >= p.height) continue;
            const float* f = taps[u0 + k * UP];
            const T* line = x + row * p.x_strides[2];
#pragma unroll
            for (int c = 0; c < NEED_X; ++c) {
                const i64 column = column0 + c;
                if (column < 0 || column >= p.width) continue;
                const Channels sample = *reinterpret_cast<const Channels*>(line + column * p.x_strides[3]);
#pragma unroll
                for (int i = 0; i < X; ++i) {
                    const int v = c * UP - i * DOWN;
                    if (v < 0 || v >= FIR) continue;
#pragma unroll
                    for (int n = 0; n < N; ++n) sums[i][n] += f[v] * to_float(sample.at[n]);
                }
            }
        }

        T* y = static_cast<T*>(p.y) + offset(p.y_strides, Place{batch, channel, out_row, left});
#pragma unroll
        for (int i = 0; i < X; ++i) {
            if (left + i < 0 || left + i >= p.out_width) continue;
            Channels result;
#pragma unroll
            for (int n = 0; n < N; ++n) store(result.at[n], sums[i][n]);
            *reinterpret_cast<Channels*>(y + i * p.y_strides[3]) = result;
        }
    }
}

// Outputs per thread that keep sums and samples in registers on every architecture.
KERNEL(upfirdn2d_general, general<ELEMENT>)
KERNEL(upfirdn2d_tiled_up1_down1, (tiled<ELEMENT, 1, 1, 4, 8>))
KERNEL(upfirdn2d_tiled_up2_down1, (tiled<ELEMENT, 2, 1, 4, 8>))
KERNEL(upfirdn2d_tiled_up1_down2, (tiled<ELEMENT, 1, 2, 2, 4>))
KERNEL(upfirdn2d_channels_last_up1_down1, (channels_last<ELEMENT, 1, 1, 4>))
KERNEL(upfirdn2d_channels_last_up2_down1, (channels_last<ELEMENT, 2, 1, 4>))
KERNEL(upfirdn2d_channels_last_up1_down2, (channels_last<ELEMENT, 1, 2, 2>))
