#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math_constants.h>
#include <stdint.h>

namespace {

constexpr int LANES = 32;

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void narrow(float x, float &to) { to = x; }
__device__ __forceinline__ void narrow(float x, __half &to) { to = __float2half(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16 &to) { to = __float2bfloat16(x); }

// What a thread reads and writes at once.
template <typename T, int ELEMENTS> struct alignas(sizeof(T) * ELEMENTS) Pack {
    T values[ELEMENTS];
};

template <typename T, int ELEMENTS> __device__ __forceinline__ Pack<T, ELEMENTS> read(const T *from) {
    return *reinterpret_cast<const Pack<T, ELEMENTS> *>(from);
}

template <typename T, int ELEMENTS> __device__ __forceinline__ void write(T *to, const Pack<T, ELEMENTS> &pack) {
    *reinterpret_cast<Pack<T, ELEMENTS> *>(to) = pack;
}

} // namespace
