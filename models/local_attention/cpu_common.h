// What the forward and the backward of cpu.cpp share: vectors, sizes, threads, layouts, scores.
//
// A tile is kRows x kLanes queries. Scores are computed for kLanes queries at once, with the keys as planes (a row of the
// frame for each channel); weights stay in the cache, and the values are read channel-last, so that one load serves all
// rows of the tile. All tiles are independent of each other and each is done in a fixed order by one thread: the bits of
// the result do not depend on the number of threads. Scores are kept in units of log2 (the query carries log2(e)).

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// kLanes floats a vector; kDepth vectors of channels and kOffsets window offsets are what the registers hold beside kRows.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kRows = 4, kDepth = 4, kOffsets = 6;
#elif defined(__AVX__)
constexpr int kLanes = 8, kRows = 6, kDepth = 2, kOffsets = 2;
#elif defined(__aarch64__)
constexpr int kLanes = 4, kRows = 4, kDepth = 4, kOffsets = 5;
#else
constexpr int kLanes = 4, kRows = 4, kDepth = 2, kOffsets = 2;
#endif
constexpr int kBlock = kLanes * kDepth;  // channels of a value that are summed in registers
constexpr int kTogether = std::max(1, (12 << 10) / (kRows * kLanes * kBlock * 4));  // whose sums fit the first cache
constexpr int kChannels = 64;            // channels of a score that are summed before the next key row
constexpr long kWeightFloats = 1 << 15;  // weights of a tile kept at once, so that they stay in the second cache
constexpr float kLazy = 16.f;            // how far (log2) scores may pass the running maximum before sums are rescaled
constexpr float kLog2e = 1.4426950408889634f;

typedef float vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t ivec __attribute__((vector_size(kLanes * 4)));
typedef vec loose __attribute__((aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const loose*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<loose*>(p) = x; }
// Of the first `count` lanes; the others are zero, and stay as they are.
inline vec load_part(const float* p, long count) {
#if defined(__AVX512F__)
    return (vec)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
#else
    vec x{};
    if (count == kLanes) x = load(p);
    else std::memcpy(&x, p, count * 4);
    return x;
#endif
}
inline void store_part(float* p, vec x, long count) {
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)x);
#else
    if (count == kLanes) store(p, x);
    else std::memcpy(p, &x, count * 4);
#endif
}
inline vec all(float x) { return x - vec{}; }
// Loads once, for several uses: compilers like to read memory again in each multiplication, and the loads then set the pace.
inline vec held(const float* p) {
    vec x = load(p);
#if defined(__AVX512F__)
    asm("" : "+v"(x));
#elif defined(__AVX__)
    asm("" : "+x"(x));
#endif
    return x;
}
inline vec maximum(vec a, vec b) { return a > b ? a : b; }  // a NaN in a is dropped: the exponential brings it back
inline vec relu(vec x) { return x < vec{} ? vec{} : x; }

// A polynomial of f, highest power first.
inline vec polynomial(vec, vec sum) { return sum; }
template <class... Rest>
inline vec polynomial(vec f, vec sum, float next, Rest... rest) {
    return polynomial(f, sum * f + next, rest...);
}

// 2^x to 1e-7; below 2^-126 it stays there. NaN and +inf - inf come out as NaN. The polynomial is that of the least relative
// error for -1/2 <= f <= 1/2.
inline vec exp2_of(vec x) {
#if defined(__AVX512F__)
    x = (vec)_mm512_max_ps((__m512)all(-126.f), (__m512)x);  // a NaN of the second stays
    const vec whole = (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    const vec low = all(-126.f), magic = all(12582912.f);  // 1.5 * 2^23, whose addition rounds
    x = x < low ? low : x;
    const vec rounded = x + magic, whole = rounded - magic;
#endif
    const vec p = polynomial(x - whole, all(1.3264727207e-3f), 9.6715126526e-3f, 5.5507337433e-2f, 2.4022242085e-1f,
                             6.9314697760e-1f, 1.f);
#if defined(__AVX512F__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
    return p * (vec)(((ivec)rounded << 23) + (127 << 23));
#endif
}

template <int S, int... I>
inline void swap_lanes(vec& a, vec& b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
    const vec low = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I - S : I)...);
    b = __builtin_shufflevector(a, b, ((I & S) ? kLanes + I : I + S)...);
#else
    const vec low = __builtin_shuffle(a, b, ivec{((I & S) ? kLanes + I - S : I)...});
    b = __builtin_shuffle(a, b, ivec{((I & S) ? kLanes + I : I + S)...});
#endif
    a = low;
}

template <int S = 1>
inline void transpose(vec (&m)[kLanes]) {
    if constexpr (S < kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes; i++)
            if (!(i & S)) swap_lanes<S>(m[i], m[i + S], std::make_integer_sequence<int, kLanes>{});
        transpose<2 * S>(m);
    }
}

struct Floats {  // uninitialised, on a cache line
    explicit Floats(size_t count) : align(std::align_val_t(count * 4 < kFresh ? 64 : kHugePage)) {
        data = static_cast<float*>(::operator new(count * 4 + 64, align));
#if defined(MADV_HUGEPAGE)
        if (align == std::align_val_t(kHugePage)) madvise(data, count * 4, MADV_HUGEPAGE);  // a hint: it may fail
#endif
    }
    ~Floats() { ::operator delete(data, align); }
    Floats(const Floats&) = delete;
    const std::align_val_t align;
    float* data;

private:
    // From this size on the C library may ask the system for fresh pages at every call: in large ones they cost a tenth.
    static constexpr size_t kFresh = 2 << 20, kHugePage = 2 << 20;
};

struct Shape {
    long B, C, D, T, h, w, n;
    long ry, rx, nx;   // the window, cut to what can lie inside of the frame: 2 rx + 1 = nx columns
    long blocks, Dp;   // value channels in blocks of kBlock, the last rounded up to vectors: Dp in all
    long plane;        // padded width of a key row
    long rows, cols;   // tiles

    Shape(long B, long C, long D, long T, long h, long w, long n) : B(B), C(C), D(D), T(T), h(h), w(w), n(n) {
        ry = std::min(n / 2, h - 1), rx = std::min(n / 2, w - 1), nx = 2 * rx + 1;
        Dp = up(D, kLanes), blocks = (Dp + kBlock - 1) / kBlock;
        rows = (h + kRows - 1) / kRows, cols = (w + kLanes - 1) / kLanes;
        plane = up(up(w, kLanes) + 2 * rx, kLanes);
        if (plane % 256 == 0) plane += kLanes;  // channels a multiple of 1 KB apart would share few cache sets
    }
    static long up(long x, long by) { return (x + by - 1) / by * by; }
    long width(long block) const { return std::min<long>(kBlock, Dp - block * kBlock); }
    size_t planes_floats(long channels) const { return size_t(B) * T * h * channels * plane + kLanes; }
    size_t blocked_floats() const { return size_t(B) * T * h * w * Dp; }
    bool one_block() const { return blocks == 1 && Dp == D; }  // channels-last values are in blocks as they lie
    // Neighbours of a query in row y that no key row holds: they take part with score 0.
    float outside(long y) const {
        const long inside = std::min(h - 1, y + ry) - std::max(0L, y - ry) + 1;
        return float(T * (n * n - inside * nx));
    }
};

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// Runs task(i, scratch) for 0 <= i < count on up to `threads` threads; make_scratch() once a thread. Through the OpenMP pool
// that PyTorch uses where the caller found it, since a second pool would fight for the cores; otherwise own threads.
template <class MakeScratch, class Task>
bool parallel(long count, long threads, GompParallel gomp, const MakeScratch& make_scratch, const Task& task) {
    std::atomic<long> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            auto scratch = make_scratch();
            for (long i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(i, *scratch);
        } catch (const std::bad_alloc&) {
            failed = true;
        }
    };
    using Work = decltype(work);
    threads = std::min(threads, count);
    if (threads <= 1) {
        work();
    } else if (gomp) {
        gomp([](void* p) { (*static_cast<Work*>(p))(); }, &work, unsigned(threads), 0);
    } else {
        std::vector<std::thread> helpers;
        try {
            for (long i = 1; i < threads; i++) helpers.emplace_back(work);
        } catch (const std::system_error&) {  // no more threads to be had: those that started do it all
        }
        work();
        for (auto& helper : helpers) helper.join();
    }
    return !failed;
}

struct None {};
std::unique_ptr<None> no_scratch() { return std::make_unique<None>(); }

// Up to kLanes rows of `x` floats, `stride` apart -> x rows of kLanes, `width` apart: channels of a row of the frame become the
// last dimension, or the other way around.
inline void transposed(const float* from, long stride, long rows, long x, float* to, long width) {
    vec m[kLanes];
    for (long x0 = 0; x0 < x; x0 += kLanes) {
        const long valid = std::min<long>(kLanes, x - x0);
        for (int i = 0; i < kLanes; i++) m[i] = i < rows ? load_part(from + i * stride + x0, valid) : vec{};
        transpose(m);
        for (long i = 0; i < valid; i++) store(to + (x0 + i) * width, m[i]);
    }
}

// B T h w D -> B T (block) h w (channels of the block).
bool pack_blocked_from_last(const Shape& s, const float* from, float* to, long threads, GompParallel gomp) {
    return parallel(s.B * s.T * s.h, threads, gomp, no_scratch, [&](long i, None&) {
        const long y = i % s.h, bt = i / s.h, frame = s.h * s.w;
        for (long block = 0; block < s.blocks; block++) {
            const long width = s.width(block), valid = std::min(width, s.D - block * kBlock);
            float* at = to + (bt * s.Dp + block * kBlock) * frame + y * s.w * width;
            const float* source = from + i * s.w * s.D + block * kBlock;
            for (long x = 0; x < s.w; x++, at += width, source += s.D) {
                std::memcpy(at, source, valid * 4);
                std::memset(at + valid, 0, (width - valid) * 4);
            }
        }
    });
}

// B D T h w -> B T (block) h w (channels of the block).
bool pack_blocked(const Shape& s, const float* from, float* to, long threads, GompParallel gomp) {
    return parallel(s.B * s.T * s.h, threads, gomp, no_scratch, [&](long i, None&) {
        const long y = i % s.h, t = i / s.h % s.T, b = i / s.h / s.T, frame = s.h * s.w;
        for (long d = 0; d < s.Dp; d += kLanes) {
            const long block = d / kBlock, width = s.width(block);
            float* at = to + ((b * s.T + t) * s.Dp + block * kBlock) * frame + y * s.w * width + d % kBlock;
            const float* source = from + ((b * s.D + d) * s.T + t) * frame + y * s.w;
            transposed(source, s.T * frame, std::min<long>(kLanes, s.D - d), s.w, at, width);
        }
    });
}

// Which rows of a tile starting at y0 have key row `key` in their window: [from, to).
struct Reach {
    long from, to;
    Reach(const Shape& s, long y0, long key)
        : from(std::max(0L, key - s.ry - y0)), to(std::min({long(kRows), s.h - y0, key + s.ry - y0 + 1})) {}
};

// Sums of values as they lie in acc[row][x][block], for RR rows, DD vectors of channels.
template <int RR, int DD>
inline void load_sums(vec (&sum)[RR][DD], const float* acc) {
#pragma GCC unroll 8
    for (int r = 0; r < RR; r++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) sum[r][d] = load(acc + r * kLanes * kBlock + d * kLanes);
}

template <int RR, int DD>
inline void store_sums(float* acc, const vec (&sum)[RR][DD]) {
#pragma GCC unroll 8
    for (int r = 0; r < RR; r++)
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) store(acc + r * kLanes * kBlock + d * kLanes, sum[r][d]);
}

// acc[row][x][block] += sum over j of p[row][j][x] * v[x + j][block], for RR rows, DD vectors of channels.
template <int RR, int DD>
inline void read_block(float* acc, const float* p, long row_stride, const float* v, long from, long to) {
    constexpr long width = DD * kLanes;
    vec sum[RR][DD];
    load_sums(sum, acc);
    for (long j = from; j < to; j++) {
        vec value[DD];
#pragma GCC unroll 8
        for (int d = 0; d < DD; d++) value[d] = held(v + j * width + d * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < RR; r++) {
            const vec weight = all(p[r * row_stride + j * kLanes]);
#pragma GCC unroll 8
            for (int d = 0; d < DD; d++) sum[r][d] += weight * value[d];
        }
    }
    store_sums(acc, sum);
}

// The same for the queries x0 ... x0 + count of one key row; neighbours outside of the frame have no value to add.
struct ReadValues {
    using Function = void (*)(float*, const float*, long, const float*, const Shape&, long, long);
    template <int RR, int DD>
    static void call(float* acc, const float* p, long row_stride, const float* v, const Shape& s, long x0, long count) {
        for (long x = 0; x < count; x++) {
            const long left = s.rx - (x0 + x);  // offset of the frame's first column
            const float* first = v - left * DD * kLanes;
            read_block<RR, DD>(acc + x * kBlock, p + x, row_stride, first, std::max(0L, left), std::min(s.nx, s.w + left));
        }
    }
};

// The function of `Kind` for so many rows, and channels in vectors.
template <class Kind, int... R>
typename Kind::Function row_function(long rows, long depth, std::integer_sequence<int, R...>) {
    static constexpr typename Kind::Function functions[][4] = {{Kind::template call<R + 1, 1>, Kind::template call<R + 1, 2>,
                                                Kind::template call<R + 1, kDepth - 1>,
                                                Kind::template call<R + 1, kDepth>}...};
    return functions[rows - 1][depth == kDepth ? 3 : depth == kDepth - 1 ? 2 : depth - 1];
}
template <class Kind>
inline typename Kind::Function row_function(long rows, long width) {
    return row_function<Kind>(rows, width / kLanes, std::make_integer_sequence<int, kRows>{});
}

// Asks for what a tile reads of the next row of values, ahead of its use.
inline void fetch(const float* from, const float* until) {
    for (; from < until; from += 16) __builtin_prefetch(from);
}

// Adds what a tile reads of the rows [from, to) of a frame of values in blocks; weights are [key row][row][offset][lane].
void read(const Shape& s, float* acc, const float* weights, long stride, const float* values, long y0, long x0, long count,
          long from, long to) {
    for (long group = 0; group < s.blocks; group += kTogether)
        for (long key = from; key < to; key++) {
            const Reach reach(s, y0, key);
            const float* p = weights + ((key - from) * kRows + reach.from) * stride;
            for (long block = group; block < std::min(s.blocks, group + kTogether); block++) {
                const long width = s.width(block);
                const float* v = values + block * kBlock * s.h * s.w + key * s.w * width;
                if (key + 1 < to) {
                    const float* next = v + s.w * width;
                    fetch(next + std::max(0L, x0 - s.rx) * width, next + std::min(s.w, x0 + kLanes + s.rx) * width);
                }
                row_function<ReadValues>(reach.to - reach.from, width)(
                    acc + (block * kRows + reach.from) * kLanes * kBlock, p, stride, v, s, x0, count);
            }
        }
}

// What a row of a tile has read, times a factor a query -> `to`, planes `channel` floats apart.
void write_planes(const Shape& s, const float* acc, vec factor, float* to, long channel, long valid) {
    for (long d = 0; d < s.Dp; d += kLanes, to += kLanes * channel) {
        const float* from = acc + d / kBlock * (kRows * kLanes * kBlock) + d % kBlock;
        vec m[kLanes];
        for (int x = 0; x < kLanes; x++) m[x] = load(from + x * kBlock);
        transpose(m);
        for (long i = 0; i < std::min<long>(kLanes, s.D - d); i++) {
            const vec result = m[i] * factor;
            if (valid == kLanes) store(to + i * channel, result);
            else std::memcpy(to + i * channel, &result, valid * 4);
        }
    }
}

}  // namespace
