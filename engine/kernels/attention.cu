// Attention of tokens over their sequences' keys and values in pages, and writing those there. One row of a page is one position:
// [kv_heads * width]. Each token sees the first `ends` of the positions whose rows `slots` gives for its sequence, `owners`.

#include "common.cuh"

namespace {

constexpr int WARPS = 8;

// A softmax that is not divided by its total yet, of GROUP query heads: a lane has ELEMENTS of each head's width.
template <int ELEMENTS, int GROUP> struct Softmax {
    float highest[GROUP];
    float total[GROUP];
    float sum[GROUP][ELEMENTS];

    __device__ Softmax() {
        for (int g = 0; g < GROUP; g++) {
            highest[g] = -CUDART_INF_F;
            total[g] = 0.0f;
            for (int e = 0; e < ELEMENTS; e++) sum[g][e] = 0.0f;
        }
    }

    __device__ __forceinline__ void add(int g, float score, const float *value) {
        float now = fmaxf(highest[g], score);
        float fades = __expf(highest[g] - now), weight = __expf(score - now);
        highest[g] = now;
        total[g] = total[g] * fades + weight;
        for (int e = 0; e < ELEMENTS; e++) sum[g][e] = sum[g][e] * fades + weight * value[e];
    }
};

// A block for every key and value head of every token, or for GROUP of the query heads that share it where more do. Each warp
// takes every WARPS-th position, several at once so that their reading overlaps; in the end the warps' shares are put together.
template <typename T, int ELEMENTS, int GROUP>
__device__ void attend(const T *queries, const T *keys, const T *values, const uint32_t *slots, const uint32_t *owners,
                       const uint32_t *ends, T *out, int len, int kv_heads, int group, float scale, float softcap, int window) {
    constexpr int WIDTH = LANES * ELEMENTS;
    constexpr int AHEAD = ELEMENTS >= 8 ? 2 : 4;
    const int parts = (group + GROUP - 1) / GROUP;
    const int kv = blockIdx.y / parts, first = blockIdx.y % parts * GROUP;
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    const int heads = min(GROUP, group - first);
    const int end = ends[blockIdx.x], begin = window > 0 && end > window ? end - window : 0;
    const uint32_t *own = slots + (size_t)owners[blockIdx.x] * len;
    const size_t row = ((size_t)blockIdx.x * kv_heads * group + (size_t)kv * group + first) * WIDTH;
    const size_t lanes = (size_t)kv * WIDTH + lane * ELEMENTS, stride = (size_t)kv_heads * WIDTH;

    float query[GROUP][ELEMENTS];
    for (int g = 0; g < GROUP; g++) {
        if (g >= heads) continue;
        auto pack = read<T, ELEMENTS>(queries + row + (size_t)g * WIDTH + lane * ELEMENTS);
        for (int e = 0; e < ELEMENTS; e++) query[g][e] = wide(pack.values[e]) * scale;
    }
    Softmax<ELEMENTS, GROUP> softmax;
    for (int from = begin + warp; from < end; from += WARPS * AHEAD) {
        Pack<T, ELEMENTS> key[AHEAD], value[AHEAD];
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            // Beyond the end the last position is read again, and not used.
            const size_t at = (size_t)own[min(from + a * WARPS, end - 1)] * stride + lanes;
            key[a] = read<T, ELEMENTS>(keys + at);
            value[a] = read<T, ELEMENTS>(values + at);
        }
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (from + a * WARPS >= end) break;
            float wide_value[ELEMENTS];
            for (int e = 0; e < ELEMENTS; e++) wide_value[e] = wide(value[a].values[e]);
#pragma unroll
            for (int g = 0; g < GROUP; g++) {
                if (g >= heads) continue;
                float score = 0.0f;
                for (int e = 0; e < ELEMENTS; e++) score += query[g][e] * wide(key[a].values[e]);
                for (int apart = LANES / 2; apart > 0; apart /= 2) score += __shfl_xor_sync(0xffffffff, score, apart);
                if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
                softmax.add(g, score, wide_value);
            }
        }
    }

    __shared__ float highest[WARPS], total[WARPS], sum[WARPS][WIDTH];
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
        if (g >= heads) continue;
        for (int e = 0; e < ELEMENTS; e++) sum[warp][lane * ELEMENTS + e] = softmax.sum[g][e];
        if (lane == 0) {
            highest[warp] = softmax.highest[g];
            total[warp] = softmax.total[g];
        }
        __syncthreads();
        for (int e = threadIdx.x; e < WIDTH; e += blockDim.x) {
            float most = -CUDART_INF_F, above = 0.0f, below = 0.0f;
            for (int w = 0; w < WARPS; w++) most = fmaxf(most, highest[w]);
            for (int w = 0; w < WARPS; w++) {
                const float share = __expf(highest[w] - most);
                above += share * sum[w][e];
                below += share * total[w];
            }
            narrow(above / below, out[row + (size_t)g * WIDTH + e]);
        }
        __syncthreads();
    }
}

template <typename T>
__device__ void remember(const T *keys, const T *values, const uint32_t *slots, T *all_keys, T *all_values, int width) {
    const size_t from = (size_t)blockIdx.x * width, to = (size_t)slots[blockIdx.x] * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        all_keys[to + i] = keys[from + i];
        all_values[to + i] = values[from + i];
    }
}

} // namespace

#define ATTEND(T, NAME, ELEMENTS, GROUP)                                                                                         \
    extern "C" __global__ void __launch_bounds__(WARPS *LANES) attend_##NAME##_##ELEMENTS##_##GROUP(                           \
        const T *queries, const T *keys, const T *values, const uint32_t *slots, const uint32_t *owners, const uint32_t *ends,    \
        T *out, int len, int kv_heads, int group, float scale, float softcap, int window) {                                     \
        attend<T, ELEMENTS, GROUP>(queries, keys, values, slots, owners, ends, out, len, kv_heads, group, scale, softcap,        \
                                   window);                                                                                      \
    }

#define GROUPS(T, NAME, ELEMENTS)                                                                                                \
    ATTEND(T, NAME, ELEMENTS, 1)                                                                                                 \
    ATTEND(T, NAME, ELEMENTS, 2)                                                                                                 \
    ATTEND(T, NAME, ELEMENTS, 4)                                                                                                 \
    ATTEND(T, NAME, ELEMENTS, 8)

#define TYPE(T, NAME)                                                                                                            \
    GROUPS(T, NAME, 2)                                                                                                           \
    GROUPS(T, NAME, 4)                                                                                                           \
    GROUPS(T, NAME, 8)                                                                                                           \
    extern "C" __global__ void remember_##NAME(const T *keys, const T *values, const uint32_t *slots, T *all_keys,               \
                                               T *all_values, int width) {                                                       \
        remember<T>(keys, values, slots, all_keys, all_values, width);                                                           \
    }

TYPE(float, f32)
TYPE(__half, f16)
TYPE(__nv_bfloat16, bf16)
