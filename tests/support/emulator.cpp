// Runs the CUDA kernels on a CPU: the very same source, with the blocks one after another and the threads of a block
// as coroutines that take turns at __syncthreads(). Built by tests/support/emulator.py with
//
//     g++ -shared -fPIC -DSOURCE='"upfirdn2d.cu"' -DPARAMS=Upfirdn2d emulator.cpp
#include <cmath>
#include <cstring>
#include <ucontext.h>
#include <vector>

struct Index {
    unsigned x, y, z;
};
static Index blockIdx, threadIdx, blockDim, gridDim;

#define __device__
#define __global__
#define __shared__ static
#define __launch_bounds__(...)

static ucontext_t scheduler;
static std::vector<ucontext_t> threads;

static void __syncthreads() {
    const unsigned self = threadIdx.x;
    swapcontext(&threads[self], &scheduler);
    threadIdx.x = self;
}

// What all threads said at the last barrier, and have said since.
static bool agreed, agreeing = true;

static int __syncthreads_and(int said) {
    agreeing = agreeing && said;
    __syncthreads();
    return agreed;
}

// binary16 by definition; nearbyint rounds to nearest even.
float half_to_float(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent ? std::ldexp(1024.0f + fraction, exponent - 25) : std::ldexp(float(fraction), -24);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    return bits >> 15 ? -size : size;
}

unsigned short float_to_half(float value) {
    const unsigned short sign = std::signbit(value) ? 0x8000 : 0;
    if (std::isnan(value)) return 0x7fff;
    int exponent;
    std::frexp(value, &exponent);  // |value| = f * 2^exponent, f in [0.5, 1)
    const int scale = std::fmax(exponent - 11, -24);
    const double rounded = std::ldexp(std::nearbyint(std::ldexp(std::fabs(value), -scale)), scale);
    if (rounded > 65504.0) return sign | 0x7c00;
    if (rounded < std::ldexp(1.0, -14)) return sign | (unsigned short)(std::ldexp(rounded, 24));
    std::frexp(rounded, &exponent);
    return sign | (unsigned short)((exponent + 14) << 10) | ((unsigned short)(std::ldexp(rounded, 11 - exponent)) & 1023);
}

#include SOURCE

static void (*kernel)(const PARAMS);
static const PARAMS* params;
static std::vector<bool> finished;

static void thread_main() {
    const unsigned self = threadIdx.x;
    kernel(*params);
    finished[self] = true;
}

static void run_block(unsigned count, std::vector<char>& stacks) {
    const size_t stack = stacks.size() / count;
    finished.assign(count, false);
    for (unsigned t = 0; t < count; ++t) {
        getcontext(&threads[t]);
        threads[t].uc_stack.ss_sp = &stacks[t * stack];
        threads[t].uc_stack.ss_size = stack;
        threads[t].uc_link = &scheduler;
        makecontext(&threads[t], thread_main, 0);
    }
    for (unsigned left = count; left;) {
        left = 0;
        for (unsigned t = 0; t < count; ++t) {
            if (finished[t]) continue;
            threadIdx = {t, 0, 0};
            swapcontext(&scheduler, &threads[t]);
            left += !finished[t];
        }
        agreed = agreeing;
        agreeing = true;
    }
}

extern "C" void launch(void (*function)(const PARAMS), unsigned grid, unsigned block, const PARAMS* given) {
    kernel = function;
    params = given;
    gridDim = {grid, 1, 1};
    blockDim = {block, 1, 1};
    threads.resize(block);
    std::vector<char> stacks(size_t(block) * 65536);
    for (unsigned b = 0; b < grid; ++b) {
        blockIdx = {b, 0, 0};
        run_block(block, stacks);
    }
}
