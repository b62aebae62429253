// Upsample, FIR filter, downsample (docs/ops.md has the derivation):
//
//     y[b,c,i,j] = gain * sum_uv taps[u,v] * z[b,c, i*down + u - pad_top, j*down + v - pad_left]
//     z[b,c,r,s] = x[b,c, r/up, s/up] where up divides r and s and the sample exists, else 0
//
// taps is the FIR turned by 180 degrees (a convolution), or as it is where `flip` is set.
//
// Two forms: `general` for everything, one output per thread; `walk` for a 4x4 FIR, over planes and over channels-last
// tensors. Sums are in float, addresses in 64 bit.
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
    i64 strips, walks, steps;  // of `walk`
    double gain;
};

constexpr int THREADS = 128, FIR = 4;

// `blocks` run on a multiprocessor at once, at least.
#define KERNEL(name, blocks, function) \
    extern "C" __global__ void __launch_bounds__(THREADS, blocks) name(const Upfirdn2d p) { function(p); }

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

// The taps with their gain. Those of StyleGAN are the product of a column and a row: `separable`; sums then take two
// passes of 4 taps.
struct Taps {
    float at[FIR][FIR], column[FIR];  // column times at[1] gives at, where they are separable
    bool separable;
};

// Whether two numbers are the same up to rounding; infinities and what is not a number are not.
__device__ inline bool same(float a, float b) {
    const float difference = fabsf(a - b), most = 3e-7f;
    return difference <= most * fabsf(a) && difference <= most * fabsf(b);
}

// Every thread of the block calls this once.
__device__ inline Taps load_taps(const Upfirdn2d& p) {
    __shared__ float staged[FIR][FIR];
    const int u = threadIdx.x / FIR, v = threadIdx.x % FIR;
    if (u < FIR) staged[u][v] = tap(p, u, v);
    __syncthreads();
    Taps taps;
    const float scale = 1.0f / staged[1][1];
    taps.separable = __syncthreads_and(u >= FIR || same(staged[u][1] * scale * staged[1][v], staged[u][v]));
#pragma unroll
    for (int k = 0; k < FIR * FIR; ++k) taps.at[k / FIR][k % FIR] = staged[k / FIR][k % FIR];
#pragma unroll
    for (int k = 0; k < FIR; ++k) taps.column[k] = taps.at[k][1] * scale;
    return taps;
}

// NEED neighbouring samples of N channels of a row, as words; zero where they do not exist.
template <typename T, int N, int NEED, bool PAIRS = N == 1 && sizeof(T) == 2>
struct Line {
    static constexpr int SIZE = N * sizeof(T) / 4;  // words of a sample
    typedef Vector<unsigned, SIZE> Sample;
    Sample samples[NEED];

    template <bool ALL>
    __device__ inline void read(const T* x, i64 step, unsigned exists) {
#pragma unroll
        for (int c = 0; c < NEED; ++c)
            samples[c] = ALL || exists >> c & 1 ? *reinterpret_cast<const Sample*>(x + c * step) : Sample{};
    }

    __device__ inline void arrive(unsigned exists) {}

    __device__ inline float at(int c, int n) const { return Words<T>::element(samples[c].at, n); }
};

// Half precision in planes: pairs of samples, because half the reads keep twice the bytes on their way. A row begins
// anywhere, so pairs are read as memory has them and put right when they have arrived. The launch plan sees to it that
// the tensor begins and ends between pairs: one that holds a sample of the tensor lies in it.
template <typename T, int NEED>
struct Line<T, 1, NEED, true> {
    static constexpr int PAIRS = NEED / 2 + 1;
    unsigned pairs[PAIRS], shift;  // shift: 16 bits where the first sample is the second of its pair

    template <bool ALL>
    __device__ inline void read(const T* x, i64 step, unsigned exists) {
        const unsigned second = u64(x) >> 1 & 1;
        const unsigned* from = reinterpret_cast<const unsigned*>(x - second);
        exists <<= second;
        shift = 16 * second;
#pragma unroll
        for (int k = 0; k < PAIRS; ++k)
            pairs[k] = (ALL && 2 * k < NEED) || exists >> 2 * k & 3 ? from[k] : 0;
    }

    __device__ inline void arrive(unsigned exists) {
#pragma unroll
        for (int k = 0; k < PAIRS; ++k) {
            const u64 next = k + 1 < PAIRS ? pairs[(k + 1) % PAIRS] : 0;
            pairs[k] = unsigned((next << 32 | pairs[k]) >> shift);
        }
        if (exists == (1u << NEED) - 1) return;
#pragma unroll
        for (int k = 0; k < PAIRS; ++k)
            pairs[k] &= (exists >> 2 * k & 1 ? 0x0000ffffu : 0) | (exists >> 2 * k & 2 ? 0xffff0000u : 0);
    }

    __device__ inline float at(int c, int n) const { return Words<T>::element(pairs, c); }
};

// A thread takes X neighbouring outputs of N channels and walks down the picture: each step reads DOWN rows of samples,
// adds them to all of the WINDOW rows of outputs they belong to, and stores the UP rows that are complete then. So sums
// stay in registers, and a sample is read as often as there are strips of outputs that need it.
//
// Which taps meet samples, not inserted zeros, is known when this is compiled: walks start at outputs whose phase fits,
// up to UP - 1 before the picture. Row j of a step is tap FIR - DOWN + j*UP - k*DOWN of row k of the window. AHEAD, how
// many steps' samples are read before the first is used, divides the steps of a walk.
template <typename T, int UP, int DOWN, int X, int N, int AHEAD>
struct Walk {
    static constexpr int NEED = ((X - 1) * DOWN + FIR - 1) / UP + 1;  // samples across
    static constexpr int WINDOW = FIR / DOWN, BEFORE = (WINDOW - UP) / UP;  // BEFORE: steps until a row is complete
    static_assert(X * DOWN % UP == 0, "a strip starts where a tap meets a sample");
    typedef ::Line<T, N, NEED> Line;

    float sums[WINDOW][X][N];

    template <bool SEPARABLE>
    __device__ inline void add(const Line& line, const Taps& taps, int j) {
        float across[X][N] = {};
        if (SEPARABLE) filter(across, line, taps.at[1]);
#pragma unroll
        for (int k = 0; k < WINDOW; ++k) {
            const int u = FIR - DOWN + j * UP - k * DOWN;
            if (u < 0 || u >= FIR) continue;
            if (!SEPARABLE) {
                filter(sums[k], line, taps.at[u]);
                continue;
            }
#pragma unroll
            for (int i = 0; i < X * N; ++i) sums[k][i / N][i % N] += taps.column[u] * across[i / N][i % N];
        }
    }

    __device__ static inline void filter(float (&out)[X][N], const Line& line, const float (&row)[FIR]) {
#pragma unroll
        for (int c = 0; c < NEED; ++c)
#pragma unroll
            for (int n = 0; n < N; ++n) {
                const float sample = line.at(c, n);
#pragma unroll
                for (int i = 0; i < X; ++i) {
                    const int v = c * UP - i * DOWN;
                    if (v >= 0 && v < FIR) out[i][n] += row[v] * sample;
                }
            }
    }

    // The window moves down by `rows`; what comes into it is zero.
    __device__ inline void move(int rows) {
#pragma unroll
        for (int i = 0; i < WINDOW * X * N; ++i) {
            const int k = i / (X * N), x = i / N % X, n = i % N;
            sums[k][x][n] = k + rows < WINDOW ? sums[(k + rows) % WINDOW][x][n] : 0.0f;
        }
    }

    // Row k of the window to the address of its first output. `whole`: all of them are there, and aligned.
    __device__ inline void put(T* to, int k, bool whole, int column, int width, i64 step) const {
        if (N == 1 && whole) {
            Vector<T, X> outputs;
#pragma unroll
            for (int i = 0; i < X; ++i) store(outputs.at[i], sums[k][i][0]);
            *reinterpret_cast<Vector<T, X>*>(to) = outputs;
            return;
        }
#pragma unroll
        for (int i = 0; i < X; ++i) {
            if (column + i < 0 || column + i >= width) continue;
            Vector<T, N> output;
#pragma unroll
            for (int n = 0; n < N; ++n) store(output.at[n], sums[k][i][n]);
            *reinterpret_cast<Vector<T, N>*>(to + i * step) = output;
        }
    }

    // AHEAD steps' samples, from the row at x on.
    template <bool ALL>
    __device__ static inline void read(
        Line (&lines)[AHEAD * DOWN], const T* x, i64 row_step, i64 step, int row, int height, unsigned exists) {
#pragma unroll
        for (int r = 0; r < AHEAD * DOWN; ++r, x += row_step)
            lines[r].template read<ALL>(x, step, ALL || (row + r >= 0 && row + r < height) ? exists : 0);
    }

    // `at`: the first output. The launch plan sees to it that sides fit into 32 bits.
    template <bool SEPARABLE>
    __device__ void down(const Upfirdn2d& p, const Taps& taps, const Place& at) {
        const i64 x_step = N == 1 ? 1 : p.x_strides[3], y_step = N == 1 ? 1 : p.y_strides[3];
        const int height = int(p.height), out_width = int(p.out_width), steps = int(p.steps);
        const int column = int(at.column), left = int((at.column * DOWN - p.pad_left) / UP);
        unsigned exists = 0;
#pragma unroll
        for (int c = 0; c < NEED; ++c) exists |= unsigned(left + c >= 0 && left + c < p.width) << c;
        int out_row = int(at.row) - BEFORE * UP, row = int((out_row * DOWN + FIR - DOWN - p.pad_top) / UP);
        const T* x = static_cast<const T*>(p.x) + offset(p.x_strides, Place{at.batch, at.channel, row, left});
        T* y = static_cast<T*>(p.y) + offset(p.y_strides, Place{at.batch, at.channel, out_row, column});
        const bool whole = column >= 0 && column + X <= out_width && aligned<T, X>(y) && p.y_strides[2] % X == 0;
        const int first = at.row < 0 ? 0 : int(at.row), end = int(at.row) + (steps - BEFORE) * UP;
        const unsigned rows = (end < p.out_height ? end : int(p.out_height)) - first;  // that are stored
        move(WINDOW);

        for (int step = 0; step < steps && out_row < p.out_height; step += AHEAD) {
            Line lines[AHEAD * DOWN];
            if (exists == (1u << NEED) - 1 && row >= 0 && row + AHEAD * DOWN <= height)
                read<true>(lines, x, p.x_strides[2], x_step, row, height, exists);
            else
                read<false>(lines, x, p.x_strides[2], x_step, row, height, exists);
            row += AHEAD * DOWN;
            x += AHEAD * DOWN * p.x_strides[2];
#pragma unroll
            for (int r = 0; r < AHEAD * DOWN; ++r) {
                lines[r].arrive(exists);
                add<SEPARABLE>(lines[r], taps, r % DOWN);
                if (r % DOWN != DOWN - 1) continue;
#pragma unroll
                for (int k = 0; k < UP; ++k, ++out_row, y += p.y_strides[2])
                    if (unsigned(out_row - first) < rows) put(y, k, whole, column, out_width, y_step);
                move(UP);
            }
        }
    }
};

template <typename T, int UP, int DOWN, int X, int N, int AHEAD>
__device__ void walk(const Upfirdn2d& p) {
    typedef Walk<T, UP, DOWN, X, N, AHEAD> Form;
    const Taps taps = load_taps(p);
    const i64 shift_x = modulo(-p.pad_left, UP), shift_y = modulo(FIR - 1 - p.pad_top, UP);
    const i64 rows = UP * (p.steps - Form::BEFORE);  // of a walk
    const i64 groups = p.channels / N, count = p.batch * groups * p.walks * p.strips;
    for (i64 number = i64(blockIdx.x) * THREADS + threadIdx.x; number < count; number += i64(gridDim.x) * THREADS) {
        i64 rest = number;
        Place at;
        if (N > 1) at.channel = take(rest, groups) * N;
        at.column = take(rest, p.strips) * X - shift_x;
        at.row = take(rest, p.walks) * rows - shift_y;
        if (N == 1) at.channel = take(rest, groups);
        at.batch = rest;
        Form form;
        if (taps.separable)
            form.template down<true>(p, taps, at);
        else
            form.template down<false>(p, taps, at);
    }
}

// Planes: a thread stores 16 bytes of a row (8 when halving). Channels-last: 4 channels of 2 outputs. Rows read ahead
// are as many as registers hold on every architecture.
constexpr int ROW = 16 / sizeof(ELEMENT), DEEP = ROW / 2;
KERNEL(upfirdn2d_general, 4, general<ELEMENT>)
KERNEL(upfirdn2d_planes_up1_down1, 5, (walk<ELEMENT, 1, 1, ROW, 1, 4>))
KERNEL(upfirdn2d_planes_up2_down1, 5, (walk<ELEMENT, 2, 1, ROW, 1, 4>))
KERNEL(upfirdn2d_planes_up1_down2, 5, (walk<ELEMENT, 1, 2, ROW / 2, 1, 2>))
KERNEL(upfirdn2d_channels_last_up1_down1, 5, (walk<ELEMENT, 1, 1, 2, 4, DEEP>))
KERNEL(upfirdn2d_channels_last_up2_down1, 5, (walk<ELEMENT, 2, 1, 2, 4, DEEP>))
KERNEL(upfirdn2d_channels_last_up1_down2, 5, (walk<ELEMENT, 1, 2, 2, 4, DEEP / 2>))
