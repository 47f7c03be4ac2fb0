// Windowed cross-frame attention on a GPU: forward and gradients, compiled at run time (NVRTC, no headers needed).
//
// Macros from the launch code: ELEMENT_FORMAT 0 float, 1 float16, 2 bfloat16 (loads and stores; sums are in float),
// ROWS query rows of a tile, PASSES how many times kGroup channels a block sums.
//
// A block owns a tile of ROWS x kCols pixels and walks over the rows of the other side: dot products of the tile with a
// row's window go to shared memory as weights, then weighted sums of that row are added up in registers. Forward and all
// gradients are this walk: keys and values gather from queries just as queries do from keys, so nothing needs atomics.
// Scores of wide calls are computed again by each block of PASSES * kGroup channels, so no score is ever stored.

#ifndef ROWS
#define ROWS 4
#endif
#ifndef PASSES
#define PASSES 1
#endif
#ifndef ELEMENT_FORMAT
#define ELEMENT_FORMAT 0
#endif

#ifdef CUDA_EMULATION  // the host stand-in of the tests brings its own checked shared memory and conversions
#define SHARED_FLOATS(name, count) CHECKED_SHARED_FLOATS(name, count)
#else
typedef float* Shared;
#define SHARED_FLOATS(name, count) __shared__ float name[count]
__device__ __forceinline__ float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ __forceinline__ unsigned short float_to_half(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ __forceinline__ float float_of_bits(unsigned bits) { return __uint_as_float(bits); }
__device__ __forceinline__ unsigned bits_of_float(float x) { return __float_as_uint(x); }
#endif

#if ELEMENT_FORMAT == 0
typedef float Element;
__device__ __forceinline__ float to_float(Element x) { return x; }
__device__ __forceinline__ Element from_float(float x) { return x; }
#elif ELEMENT_FORMAT == 1
typedef unsigned short Element;
__device__ __forceinline__ float to_float(Element x) { return half_to_float(x); }
__device__ __forceinline__ Element from_float(float x) { return float_to_half(x); }
#else
typedef unsigned short Element;
__device__ __forceinline__ float to_float(Element x) { return float_of_bits((unsigned)x << 16); }
__device__ __forceinline__ Element from_float(float x) {  // to nearest even; a NaN stays one
    const unsigned bits = bits_of_float(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (Element)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
#endif

constexpr int kCols = 32;      // pixels of a tile row: one lane each, so that shared memory is read without conflicts
constexpr int kWarps = 8;      // warps of a block
constexpr int kThreads = kCols * kWarps;
constexpr int kOffsets = 24;   // window columns done at once: 21 fit; wider windows take several turns
constexpr int kPitch = kCols + kOffsets;
constexpr int kShare = kOffsets / kWarps;  // window columns of a thread in the dot products
constexpr int kDotDepth = 16;  // channels of the dot products staged at once
constexpr int kDepth = 8;      // channels that a thread sums for each of the tile's rows
constexpr int kGroup = kWarps * kDepth;
constexpr int kUnroll = PASSES == 4 ? 1 : 4;  // four passes leave no registers for more
// Two blocks of the forward a multiprocessor hide each other's waiting, where registers and shared memory hold both.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800 && ROWS == 4 && PASSES == 1
constexpr int kForwardBlocks = 2, kForwardUnroll = 2;
#else
constexpr int kForwardBlocks = 1, kForwardUnroll = kUnroll;
#endif
constexpr float kLog2e = 1.4426950408889634f;
constexpr float kHidden = -2e30f;  // a score whose weight is 0, also beside the first maximum of -1e30

// All the sizes; rx, ry: half the window, cut to what can lie inside of the frame.
struct Sizes {
    int C, D, T, h, w, n, rx, ry;
    __device__ __forceinline__ bool has_column(int x) const { return x >= 0 && x < w; }
};

// One frame of a tensor: channel c at data + c * stride.
struct Planes {
    const Element* data;
    long long stride;
    int channels;
};

__device__ __forceinline__ Planes planes(const Element* x, int b, int t, int channels, int frames, const Sizes& z) {
    const long long frame = (long long)z.h * z.w;
    return {x + ((long long)b * channels * frames + t) * frame, frames * frame, channels};
}

// Where a block stands.
struct Place {
    int y0, x0, lane, warp, thread;
};

__device__ __forceinline__ Place place_of_block() {
    return {(int)blockIdx.y * ROWS, (int)blockIdx.x * kCols, (int)threadIdx.x % kCols, (int)threadIdx.x / kCols,
            (int)threadIdx.x};
}

// Channels c0 ... c0 + kDotDepth of the tile as [channel][row][column]; zeros outside of the frame.
__device__ void stage_tile(Shared to, Planes from, int c0, Place at, const Sizes& z) {
    for (int i = at.thread; i < kDotDepth * ROWS * kCols; i += kThreads) {
        const int c = c0 + i / (ROWS * kCols), y = at.y0 + i / kCols % ROWS, x = at.x0 + i % kCols;
        const bool inside = c < from.channels && y < z.h && x < z.w;
        to[i] = inside ? to_float(from.data[c * from.stride + y * z.w + x]) : 0.f;
    }
}

// Channels c0 ... c0 + count of row y as [channel][kPitch], starting at column `left`; zeros outside of the frame.
__device__ void stage_row(Shared to, Planes from, int c0, int count, int y, int left, Place at, const Sizes& z) {
    for (int i = at.thread; i < count * kPitch; i += kThreads) {
        const int c = c0 + i / kPitch, x = left + i % kPitch;
        const bool inside = c < from.channels && x >= 0 && x < z.w;
        to[i] = inside ? to_float(from.data[c * from.stride + y * z.w + x]) : 0.f;
    }
}

// sum[i][r]: dot product of the tile's pixel (r, lane) with column left + lane + warp + i * kWarps of row y.
template <int kUnrolled>
__device__ void dot_products(float (&sum)[kShare][ROWS], Shared tile, Shared row, Planes a, Planes b, int y, int left,
                             bool tile_is_staged, Place at, const Sizes& z) {
#pragma unroll
    for (int i = 0; i < kShare; i++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) sum[i][r] = 0.f;
    for (int c0 = 0; c0 < a.channels; c0 += kDotDepth) {
        __syncthreads();  // before: all have read what is overwritten now
        if (!tile_is_staged || a.channels > kDotDepth) stage_tile(tile, a, c0, at, z);
        stage_row(row, b, c0, kDotDepth, y, left, at, z);
        __syncthreads();  // dot products: all is staged
#pragma unroll kUnrolled
        for (int c = 0; c < kDotDepth; c++) {
            float mine[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) mine[r] = tile[(c * ROWS + r) * kCols + at.lane];
#pragma unroll
            for (int i = 0; i < kShare; i++) {
                const float other = row[c * kPitch + at.lane + at.warp + i * kWarps];
#pragma unroll
                for (int r = 0; r < ROWS; r++) sum[i][r] += mine[r] * other;
            }
        }
    }
}

// sum[pass][r][d] += weights[r][j][lane] * channel (first + pass * kGroup + warp * kDepth + d) of column left + lane + j.
template <int P>
__device__ void add_weighted(float (&sum)[P][ROWS][kDepth], Shared weights, Shared row, Planes x, int first, int y,
                             int left, int offsets, Place at, const Sizes& z) {
#pragma unroll
    for (int pass = 0; pass < P; pass++) {
        if (first + pass * kGroup >= x.channels) break;
        __syncthreads();  // weights are written; all have read the last pass
        stage_row(row, x, first + pass * kGroup, kGroup, y, left, at, z);
        __syncthreads();  // weighted sum: the row is staged
#pragma unroll 3
        for (int j = 0; j < offsets; j++) {
            float weight[ROWS];
#pragma unroll
            for (int r = 0; r < ROWS; r++) weight[r] = weights[(r * kOffsets + j) * kCols + at.lane];
#pragma unroll
            for (int d = 0; d < kDepth; d++) {
                const float value = row[(at.warp * kDepth + d) * kPitch + at.lane + j];
#pragma unroll
                for (int r = 0; r < ROWS; r++) sum[pass][r][d] += weight[r] * value;
            }
        }
    }
}

// Writes sum * scale[r] to channels of x (laid out like Planes), inside of the frame only.
template <int P>
__device__ void store_sums(float (&sum)[P][ROWS][kDepth], const float (&scale)[ROWS], Element* to, long long stride,
                           int channels, int first, Place at, const Sizes& z) {
    if (at.x0 + at.lane >= z.w) return;
#pragma unroll
    for (int pass = 0; pass < P; pass++)
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int d = 0; d < kDepth; d++) {
                const int c = first + pass * kGroup + at.warp * kDepth + d, y = at.y0 + r;
                if (c < channels && y < z.h)
                    to[c * stride + y * z.w + at.x0 + at.lane] = from_float(sum[pass][r][d] * scale[r]);
            }
}

__device__ __forceinline__ bool within_reach(int a, int b, int radius) { return a - b <= radius && b - a <= radius; }

// query B C h w, keys B C T h w, values B D T h w, sink null or one float -> out B D h w, lse B h w (base 2).
// masked: neighbours outside of the frame take no part; otherwise they do, with score 0 and value 0.
// Grid: column tiles, row tiles, B * blocks of PASSES * kGroup value channels.
extern "C" __global__ void __launch_bounds__(kThreads, kForwardBlocks)
attention_forward(const Element* query, const Element* keys, const Element* values, const float* sink, Element* out,
                  float* lse, int C, int D, int T, int h, int w, int n, int rx, int ry, int masked) {
    SHARED_FLOATS(tile, kDotDepth * ROWS * kCols);
    SHARED_FLOATS(key_row, kDotDepth * kPitch);
    SHARED_FLOATS(value_row, kGroup * kPitch);
    SHARED_FLOATS(weights, ROWS * kOffsets * kCols);
    SHARED_FLOATS(factors, ROWS * kCols);
    const Sizes z = {C, D, T, h, w, n, rx, ry};
    const Place at = place_of_block();
    const int blocks = (D + PASSES * kGroup - 1) / (PASSES * kGroup);
    const int b = blockIdx.z / blocks, first = blockIdx.z % blocks * (PASSES * kGroup);
    const Planes q = planes(query, b, 0, C, 1, z);
    float sum[PASSES][ROWS][kDepth] = {};
    // Thread r * kCols + lane keeps the running maximum and sum of weights of the tile's pixel (r, lane).
    const bool keeper = at.thread < ROWS * kCols;
    const int own_y = at.y0 + at.warp;
    float top = -1e30f, total = 0.f;
    bool staged = false;
    for (int t = 0; t < T; t++) {
        const Planes k = planes(keys, b, t, C, T, z), v = planes(values, b, t, D, T, z);
        for (int y = max(0, at.y0 - ry); y < min(h, at.y0 + ROWS + ry); y++)
            for (int j0 = 0; j0 <= 2 * rx; j0 += kOffsets) {
                const int offsets = min(kOffsets, 2 * rx + 1 - j0), left = at.x0 - rx + j0;
                float score[kShare][ROWS];
                dot_products<kForwardUnroll>(score, tile, key_row, q, k, y, left, staged, at, z);
                staged = true;
#pragma unroll
                for (int i = 0; i < kShare; i++) {
                    const bool hidden = masked && !z.has_column(left + at.lane + at.warp + i * kWarps);
#pragma unroll
                    for (int r = 0; r < ROWS; r++)
                        weights[(r * kOffsets + at.warp + i * kWarps) * kCols + at.lane] =
                            hidden ? kHidden : score[i][r] * kLog2e;
                }
                __syncthreads();  // softmax: all scores are written
                if (keeper) {
                    float factor = 1.f;
                    const bool reached = within_reach(y, own_y, ry);
                    if (reached) {
                        float high = top;
                        for (int j = 0; j < offsets; j++)
                            high = fmaxf(high, weights[(at.warp * kOffsets + j) * kCols + at.lane]);
                        factor = exp2f(top - high);
                        top = high;
                        total *= factor;
                    }
                    for (int j = 0; j < offsets; j++) {
                        const int i = (at.warp * kOffsets + j) * kCols + at.lane;
                        const float weight = reached ? exp2f(weights[i] - top) : 0.f;
                        weights[i] = weight;
                        total += weight;
                    }
                    factors[at.thread] = factor;
                }
                __syncthreads();  // rescaling: all factors are written
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const float factor = factors[r * kCols + at.lane];
#pragma unroll
                    for (int pass = 0; pass < PASSES; pass++)
#pragma unroll
                        for (int d = 0; d < kDepth; d++) sum[pass][r][d] *= factor;
                }
                add_weighted(sum, weights, value_row, v, first, y, left, offsets, at, z);
            }
    }
    if (keeper) {
        // Scores without a value: neighbours that no row or column above held (score 0), and the sink.
        const int rows = min(h - 1, own_y + ry) - max(0, own_y - ry) + 1;
        const float outside = own_y < h && !masked ? (float)T * ((float)n * n - (float)rows * (2 * rx + 1)) : 0.f;
        float high = top;
        if (outside > 0.f) high = fmaxf(high, 0.f);
        if (sink) high = fmaxf(high, *sink * kLog2e);
        const float shrink = exp2f(top - high);
        total *= shrink;
        if (outside > 0.f) total += outside * exp2f(-high);
        if (sink) total += exp2f(*sink * kLog2e - high);
        factors[at.thread] = shrink / total;
        if (first == 0 && own_y < h && at.x0 + at.lane < w)
            lse[((long long)b * h + own_y) * w + at.x0 + at.lane] = high + log2f(total);
    }
    __syncthreads();  // output: all factors are written
    float scale[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) scale[r] = factors[r * kCols + at.lane];
    const long long frame = (long long)h * w;
    store_sums(sum, scale, out + b * D * frame, frame, D, first, at, z);
}

// delta B h w: sum over channels of grad * out. Grid: pixels, B.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
attention_deltas(const Element* grad, const Element* out, float* delta, int D, int h, int w) {
    const long long frame = (long long)h * w, pixel = (long long)blockIdx.x * kThreads + threadIdx.x, b = blockIdx.y;
    if (pixel >= frame) return;
    float sum = 0.f;
    for (int d = 0; d < D; d++) {
        const long long i = (b * D + d) * frame + pixel;
        sum += to_float(grad[i]) * to_float(out[i]);
    }
    delta[b * frame + pixel] = sum;
}

// The walk of the gradients. A pixel of the tile is a query (kTileIsQuery) and the rows are keys, or the other way round:
// the window is symmetric. The weight of a pair is p, or p (grad . value - delta) with kOfScores, the score's gradient.
// Sums up weight * x over the rows of one frame.
template <bool kTileIsQuery, bool kOfScores, int P>
__device__ void add_gradient(float (&sum)[P][ROWS][kDepth], Shared tile, Shared dot_row, Shared row, Shared weights,
                             Planes tile_key, Planes row_key, Planes tile_value, Planes row_value, Planes x, int first,
                             const float* lse, const float* delta, Place at, const Sizes& z) {
    for (int y = max(0, at.y0 - z.ry); y < min(z.h, at.y0 + ROWS + z.ry); y++)
        for (int j0 = 0; j0 <= 2 * z.rx; j0 += kOffsets) {
            const int offsets = min(kOffsets, 2 * z.rx + 1 - j0), left = at.x0 - z.rx + j0;
            float score[kShare][ROWS], product[kShare][ROWS];
            dot_products<kUnroll>(score, tile, dot_row, tile_key, row_key, y, left, false, at, z);
            if (kOfScores) dot_products<kUnroll>(product, tile, dot_row, tile_value, row_value, y, left, false, at, z);
#pragma unroll
            for (int i = 0; i < kShare; i++) {
                const int column = left + at.lane + at.warp + i * kWarps;
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    const int query_y = kTileIsQuery ? at.y0 + r : y, query_x = kTileIsQuery ? at.x0 + at.lane : column;
                    const bool query_inside = query_y < z.h && query_x >= 0 && query_x < z.w;
                    float weight = 0.f;
                    // A key outside of the frame adds nothing; its weight, where it was masked, could be infinite.
                    const bool both_inside = query_inside && (!kTileIsQuery || z.has_column(column));
                    if (both_inside && within_reach(y, at.y0 + r, z.ry)) {
                        const int query = query_y * z.w + query_x;
                        weight = exp2f(score[i][r] * kLog2e - lse[query]);
                        if (kOfScores) weight *= product[i][r] - delta[query];
                    }
                    weights[(r * kOffsets + at.warp + i * kWarps) * kCols + at.lane] = weight;
                }
            }
            add_weighted(sum, weights, row, x, first, y, left, offsets, at, z);
        }
}

#define GRADIENT_SHARED(P)                             \
    SHARED_FLOATS(tile, kDotDepth* ROWS* kCols);       \
    SHARED_FLOATS(dot_row, kDotDepth* kPitch);         \
    SHARED_FLOATS(row, kGroup* kPitch);                \
    SHARED_FLOATS(weights, ROWS* kOffsets* kCols);     \
    const Sizes z = {C, D, T, h, w, n, rx, ry};        \
    const Place at = place_of_block();                 \
    const long long frame = (long long)h * w;          \
    float sum[P][ROWS][kDepth] = {}, one[ROWS];        \
    for (int r = 0; r < ROWS; r++) one[r] = 1.f;

// Gradient of the query. Grid: column tiles, row tiles, B * blocks of at most two groups of key channels.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
attention_query_gradient(const Element* query, const Element* keys, const Element* values, const Element* grad,
                         const float* lse, const float* delta, Element* to, int C, int D, int T, int h, int w, int n,
                         int rx, int ry) {
    constexpr int kPasses = PASSES < 2 ? PASSES : 2;  // with four it would spill
    GRADIENT_SHARED(kPasses)
    const int blocks = (C + kPasses * kGroup - 1) / (kPasses * kGroup);
    const int b = blockIdx.z / blocks, first = blockIdx.z % blocks * (kPasses * kGroup);
    const Planes q = planes(query, b, 0, C, 1, z), g = planes(grad, b, 0, D, 1, z);
    for (int t = 0; t < T; t++) {
        const Planes k = planes(keys, b, t, C, T, z), v = planes(values, b, t, D, T, z);
        add_gradient<true, true>(sum, tile, dot_row, row, weights, q, k, g, v, k, first, lse + b * frame,
                                 delta + b * frame, at, z);
    }
    store_sums(sum, one, to + b * C * frame, frame, C, first, at, z);
}

// Gradient of the keys. Grid: column tiles, row tiles, B * T * blocks of key channels.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
attention_key_gradient(const Element* query, const Element* keys, const Element* values, const Element* grad,
                       const float* lse, const float* delta, Element* to, int C, int D, int T, int h, int w, int n, int rx,
                       int ry) {
    GRADIENT_SHARED(PASSES)
    const int blocks = (C + PASSES * kGroup - 1) / (PASSES * kGroup);
    const int bt = blockIdx.z / blocks, b = bt / T, t = bt % T, first = blockIdx.z % blocks * (PASSES * kGroup);
    const Planes q = planes(query, b, 0, C, 1, z), g = planes(grad, b, 0, D, 1, z);
    const Planes k = planes(keys, b, t, C, T, z), v = planes(values, b, t, D, T, z);
    add_gradient<false, true>(sum, tile, dot_row, row, weights, k, q, v, g, q, first, lse + b * frame, delta + b * frame,
                              at, z);
    store_sums(sum, one, to + ((long long)b * C * T + t) * frame, T * frame, C, first, at, z);
}

// Gradient of the values. Grid: column tiles, row tiles, B * T * blocks of value channels.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
attention_value_gradient(const Element* query, const Element* keys, const Element* values, const Element* grad,
                         const float* lse, const float* delta, Element* to, int C, int D, int T, int h, int w, int n,
                         int rx, int ry) {
    GRADIENT_SHARED(PASSES)
    const int blocks = (D + PASSES * kGroup - 1) / (PASSES * kGroup);
    const int bt = blockIdx.z / blocks, b = bt / T, t = bt % T, first = blockIdx.z % blocks * (PASSES * kGroup);
    const Planes q = planes(query, b, 0, C, 1, z), g = planes(grad, b, 0, D, 1, z);
    const Planes k = planes(keys, b, t, C, T, z), v = planes(values, b, t, D, T, z);
    add_gradient<false, false>(sum, tile, dot_row, row, weights, k, q, v, g, g, first, lse + b * frame, delta + b * frame,
                               at, z);
    store_sums(sum, one, to + ((long long)b * D * T + t) * frame, T * frame, D, first, at, z);
}
