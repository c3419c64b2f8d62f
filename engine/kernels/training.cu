// What training does beside matrix products, each in one pass over memory. Blocks have THREADS threads; where a block has a row,
// its sums have a fixed order, so results repeat.

#include "common.cuh"

namespace {

constexpr int THREADS = 256;

struct Sum {
    static __device__ __forceinline__ float none() { return 0.0f; }
    static __device__ __forceinline__ float of(float a, float b) { return a + b; }
};

struct Most {
    static __device__ __forceinline__ float none() { return -CUDART_INF_F; }
    // Not a number stays one.
    static __device__ __forceinline__ float of(float a, float b) { return a > b || a != a ? a : b; }
};

// The same on all threads of the warp.
template <typename How> __device__ __forceinline__ float in_warp(float value) {
    for (int apart = LANES / 2; apart > 0; apart /= 2) value = How::of(value, __shfl_xor_sync(0xffffffff, value, apart));
    return value;
}

// The same on all threads of the block.
template <typename How> __device__ float together(float value) {
    __shared__ float shares[THREADS / LANES];
    value = in_warp<How>(value);
    if (threadIdx.x % LANES == 0) shares[threadIdx.x / LANES] = value;
    __syncthreads();
    value = How::none();
    for (int share = 0; share < THREADS / LANES; share++) value = How::of(value, shares[share]);
    __syncthreads();
    return value;
}

// -log softmax(logits)[target] of a row, and the logarithm of its sum.
template <typename T>
__device__ void losses(const T *logits, const uint32_t *targets, float *losses, float *logs, int width) {
    const T *row = logits + (size_t)blockIdx.x * width;
    float most = Most::none();
    for (int i = threadIdx.x; i < width; i += THREADS) most = Most::of(most, wide(row[i]));
    most = together<Most>(most);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) sum += __expf(wide(row[i]) - most);
    sum = together<Sum>(sum);
    if (threadIdx.x == 0) {
        const float log = most + logf(sum);
        logs[blockIdx.x] = log;
        losses[blockIdx.x] = log - wide(row[targets[blockIdx.x]]);
    }
}

// 1 for a row whose target has the highest logit, else 0.
template <typename T> __device__ void hits(const T *logits, const uint32_t *targets, float *out, int width) {
    const T *row = logits + (size_t)blockIdx.x * width;
    float most = Most::none();
    for (int i = threadIdx.x; i < width; i += THREADS) most = Most::of(most, wide(row[i]));
    most = together<Most>(most);
    if (threadIdx.x == 0) out[blockIdx.x] = wide(row[targets[blockIdx.x]]) >= most ? 1.0f : 0.0f;
}

// softmax - one_hot(target), times the row's factor.
template <typename T>
__device__ void losses_back(const T *logits, const uint32_t *targets, const float *logs, const float *factors, T *out, int width) {
    const size_t first = (size_t)blockIdx.x * width;
    const float log = logs[blockIdx.x], factor = factors[blockIdx.x];
    const int target = targets[blockIdx.x];
    for (int i = threadIdx.x; i < width; i += THREADS) {
        const float weight = __expf(wide(logits[first + i]) - log) - (i == target ? 1.0f : 0.0f);
        narrow(weight * factor, out[first + i]);
    }
}

// What a token of a row of `len` sees of its products with keys, scaled and bounded. A warp is one token.
struct Scores {
    size_t token;
    int begin, end, lane;
    float scale, softcap;

    __device__ Scores(int len, float scale, float softcap, int window) : scale(scale), softcap(softcap) {
        token = (size_t)blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
        lane = threadIdx.x % LANES;
        end = token % len + 1;
        begin = window > 0 && end > window ? end - window : 0;
    }

    __device__ __forceinline__ bool sees(int i) const { return i >= begin && i < end; }

    __device__ __forceinline__ float of(float product) const {
        const float score = product * scale;
        return softcap > 0.0f ? softcap * tanhf(score / softcap) : score;
    }

    // Of the score by the product.
    __device__ __forceinline__ float slope(float score) const {
        if (softcap <= 0.0f) return scale;
        const float share = score / softcap;
        return scale * (1.0f - share * share);
    }

    // The logarithm of the softmax's sum.
    template <typename T> __device__ float log(const T *products) const {
        float most = Most::none();
        for (int i = begin + lane; i < end; i += LANES) most = Most::of(most, of(wide(products[i])));
        most = in_warp<Most>(most);
        float sum = 0.0f;
        for (int i = begin + lane; i < end; i += LANES) sum += __expf(of(wide(products[i])) - most);
        return most + logf(in_warp<Sum>(sum));
    }
};

// Softmax weights of every token's products with the keys of its row.
template <typename T>
__device__ void softmax(const T *products, T *weights, size_t tokens, int len, float scale, float softcap, int window) {
    const Scores scores(len, scale, softcap, window);
    if (scores.token >= tokens) return;
    products += scores.token * len;
    weights += scores.token * len;
    const float log = scores.log(products);
    for (int i = scores.lane; i < len; i += LANES) {
        narrow(scores.sees(i) ? __expf(scores.of(wide(products[i])) - log) : 0.0f, weights[i]);
    }
}

// The weights again, and the products' gradient from the weights' (`through`, in whose place it is written).
template <typename T>
__device__ void softmax_back(const T *products, T *weights, T *through, size_t tokens, int len, float scale, float softcap,
                             int window) {
    const Scores scores(len, scale, softcap, window);
    if (scores.token >= tokens) return;
    products += scores.token * len;
    weights += scores.token * len;
    through += scores.token * len;
    const float log = scores.log(products);
    float along = 0.0f;
    for (int i = scores.begin + scores.lane; i < scores.end; i += LANES) {
        along += __expf(scores.of(wide(products[i])) - log) * wide(through[i]);
    }
    along = in_warp<Sum>(along);
    for (int i = scores.lane; i < len; i += LANES) {
        float weight = 0.0f, change = 0.0f;
        if (scores.sees(i)) {
            const float score = scores.of(wide(products[i]));
            weight = __expf(score - log);
            change = weight * (wide(through[i]) - along) * scores.slope(score);
        }
        narrow(weight, weights[i]);
        narrow(change, through[i]);
    }
}

// With `s` the scale and `h = grad * weight`: `s * h - x * s^3 * mean(h * x)`.
template <typename T>
__device__ void rms_norm_back(const T *x, const T *weight, const T *grad, T *out, float eps, int width) {
    const size_t first = (size_t)blockIdx.x * width;
    float squares = 0.0f, along = 0.0f;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        const float value = wide(x[first + i]);
        squares += value * value;
        along += value * wide(grad[first + i]) * wide(weight[i]);
    }
    squares = together<Sum>(squares);
    along = together<Sum>(along);
    const float scale = rsqrtf(squares / width + eps), back = scale * scale * scale * along / width;
    for (int i = threadIdx.x; i < width; i += THREADS) {
        narrow(scale * wide(grad[first + i]) * wide(weight[i]) - wide(x[first + i]) * back, out[first + i]);
    }
}

// `x * sigmoid(bend of x)`: x itself for SiLU, else GELU by its approximation.
struct Bent {
    float sigmoid, slope;

    __device__ __forceinline__ Bent(float x, bool gelu) {
        const float bend = gelu ? x * (1.5957691216f + 0.0713548163f * x * x) : x;
        slope = gelu ? 1.5957691216f + 0.2140644489f * x * x : 1.0f;
        sigmoid = 1.0f / (1.0f + __expf(-bend));
    }
};

template <typename T> __device__ void gated(const T *gate, const T *up, T *out, size_t count, int gelu) {
    constexpr int ELEMENTS = 4;
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * ELEMENTS;
    if (i >= count) return;
    const auto gates = read<T, ELEMENTS>(gate + i), ups = read<T, ELEMENTS>(up + i);
    Pack<T, ELEMENTS> outs;
    for (int e = 0; e < ELEMENTS; e++) {
        const float x = wide(gates.values[e]);
        narrow(x * Bent(x, gelu).sigmoid * wide(ups.values[e]), outs.values[e]);
    }
    write(out + i, outs);
}

template <typename T>
__device__ void gated_back(const T *gate, const T *up, const T *grad, T *gate_gradient, T *up_gradient, size_t count, int gelu) {
    constexpr int ELEMENTS = 4;
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * ELEMENTS;
    if (i >= count) return;
    const auto gates = read<T, ELEMENTS>(gate + i), ups = read<T, ELEMENTS>(up + i), grads = read<T, ELEMENTS>(grad + i);
    Pack<T, ELEMENTS> gate_gradients, up_gradients;
    for (int e = 0; e < ELEMENTS; e++) {
        const float x = wide(gates.values[e]), through = wide(grads.values[e]);
        const Bent bent(x, gelu);
        narrow(through * wide(ups.values[e]) * bent.sigmoid * (1.0f + x * (1.0f - bent.sigmoid) * bent.slope),
               gate_gradients.values[e]);
        narrow(through * x * bent.sigmoid, up_gradients.values[e]);
    }
    write(gate_gradient + i, gate_gradients);
    write(up_gradient + i, up_gradients);
}

// Number `i` of a stream: SplitMix64's mixing of a counter, 24 bits of it as a number from 0 to below 1.
__device__ __forceinline__ float uniform(uint64_t key, uint64_t i) {
    uint64_t z = key + (i + 1) * 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return (float)((z ^ (z >> 31)) >> 40) * (1.0f / 16777216.0f);
}

// 0 with probability `rate`, else 1 / (1 - rate): the same for the same key and place.
__device__ __forceinline__ float factor(uint64_t key, uint64_t i, float rate) {
    return uniform(key, i) < rate ? 0.0f : 1.0f / (1.0f - rate);
}

template <typename T> __device__ void drop(const T *x, T *out, size_t count, uint64_t key, float rate) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) narrow(wide(x[i]) * factor(key, i, rate), out[i]);
}

template <typename T> __device__ void add_dropped(const T *x, T *sum, size_t count, uint64_t key, float rate) {
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < count) narrow(wide(sum[i]) + wide(x[i]) * factor(key, i, rate), sum[i]);
}

} // namespace

#define TYPE(T, NAME)                                                                                                            \
    extern "C" __global__ void losses_##NAME(const T *logits, const uint32_t *targets, float *out, float *logs, int width) {     \
        losses<T>(logits, targets, out, logs, width);                                                                            \
    }                                                                                                                            \
    extern "C" __global__ void losses_back_##NAME(const T *logits, const uint32_t *targets, const float *logs,                   \
                                                  const float *factors, T *out, int width) {                                     \
        losses_back<T>(logits, targets, logs, factors, out, width);                                                              \
    }                                                                                                                            \
    extern "C" __global__ void hits_##NAME(const T *logits, const uint32_t *targets, float *out, int width) {                    \
        hits<T>(logits, targets, out, width);                                                                                    \
    }                                                                                                                            \
    extern "C" __global__ void softmax_##NAME(const T *products, T *weights, size_t tokens, int len, float scale, float softcap, \
                                              int window) {                                                                      \
        softmax<T>(products, weights, tokens, len, scale, softcap, window);                                                      \
    }                                                                                                                            \
    extern "C" __global__ void softmax_back_##NAME(const T *products, T *weights, T *through, size_t tokens, int len,            \
                                                   float scale, float softcap, int window) {                                     \
        softmax_back<T>(products, weights, through, tokens, len, scale, softcap, window);                                        \
    }                                                                                                                            \
    extern "C" __global__ void rms_norm_back_##NAME(const T *x, const T *weight, const T *grad, T *out, float eps, int width) {  \
        rms_norm_back<T>(x, weight, grad, out, eps, width);                                                                      \
    }                                                                                                                            \
    extern "C" __global__ void gated_##NAME(const T *gate, const T *up, T *out, size_t count, int gelu) {                        \
        gated<T>(gate, up, out, count, gelu);                                                                                    \
    }                                                                                                                            \
    extern "C" __global__ void gated_back_##NAME(const T *gate, const T *up, const T *grad, T *gate_gradient, T *up_gradient,    \
                                                 size_t count, int gelu) {                                                       \
        gated_back<T>(gate, up, grad, gate_gradient, up_gradient, count, gelu);                                                  \
    }                                                                                                                            \
    extern "C" __global__ void drop_##NAME(const T *x, T *out, size_t count, uint64_t key, float rate) {                         \
        drop<T>(x, out, count, key, rate);                                                                                       \
    }                                                                                                                            \
    extern "C" __global__ void add_dropped_##NAME(const T *x, T *sum, size_t count, uint64_t key, float rate) {                  \
        add_dropped<T>(x, sum, count, key, rate);                                                                                \
    }

TYPE(float, f32)
TYPE(__half, f16)
TYPE(__nv_bfloat16, bf16)
