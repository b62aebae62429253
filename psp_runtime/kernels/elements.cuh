// Element types, vectors and index helpers of the kernels, without any header of the CUDA toolkit: NVRTC alone
// compiles this, and a host compiler does too (tests/emulator.cpp runs the kernels on a CPU).
#pragma once

typedef long long i64;
typedef unsigned long long u64;

#ifndef __CUDACC__
float half_to_float(unsigned short bits);
unsigned short float_to_half(float value);
inline float half_of(unsigned pair, bool second) { return half_to_float((unsigned short)(pair >> 16 * second)); }
#else
__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

// One of two halves in a word. Written so that the assembler makes one instruction of it.
__device__ inline float half_of(unsigned pair, bool second) {
    float value;
    if (second)
        asm("{.reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, b;}" : "=f"(value) : "r"(pair));
    else
        asm("{.reg .b16 a, b; mov.b32 {a, b}, %1; cvt.f32.f16 %0, a;}" : "=f"(value) : "r"(pair));
    return value;
}

__device__ inline unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

struct half_t {
    unsigned short bits;
};

struct bfloat_t {
    unsigned short bits;
};

union FloatBits {
    float value;
    unsigned bits;
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(half_t value) { return half_to_float(value.bits); }
__device__ inline float to_float(bfloat_t value) {
    FloatBits word;
    word.bits = unsigned(value.bits) << 16;
    return word.value;
}

__device__ inline void store(float& to, float value) { to = value; }
__device__ inline void store(half_t& to, float value) { to.bits = float_to_half(value); }
__device__ inline void store(bfloat_t& to, float value) {
    // Round to nearest even by hand: compute capability 7.5 has no instruction for it. A NaN must not round to infinity.
    FloatBits word;
    word.value = value;
    const unsigned rounded = (word.bits + 0x7fffu + ((word.bits >> 16) & 1u)) >> 16;
    to.bits = (unsigned short)(value != value ? 0x7fffu : rounded);
}

// Element `i` of a row of words: a word holds one float, or two of the others.
template <typename T>
struct Words;

template <>
struct Words<float> {
    __device__ static inline float element(const unsigned* words, int i) {
        FloatBits word;
        word.bits = words[i];
        return word.value;
    }
};

template <>
struct Words<half_t> {
    __device__ static inline float element(const unsigned* words, int i) { return half_of(words[i / 2], i % 2); }
};

template <>
struct Words<bfloat_t> {
    __device__ static inline float element(const unsigned* words, int i) {
        FloatBits word;
        word.bits = i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16;
        return word.value;
    }
};

// N neighbouring elements, moved by one instruction where their address is a multiple of their size.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
    T at[N];
};

template <typename T, int N>
__device__ inline bool aligned(const T* address) {
    return u64(address) % sizeof(Vector<T, N>) == 0;
}

// a / b for a >= 0, b > 0. 64-bit division costs four times a 32-bit one, which nearly every tensor can do with.
__device__ inline i64 divide(i64 a, i64 b) {
    return ((a | b) >> 32) ? a / b : i64(unsigned(a) / unsigned(b));
}

// The remainder in [0, b), also of a negative a.
__device__ inline i64 modulo(i64 a, i64 b) { return (a % b + b) % b; }
