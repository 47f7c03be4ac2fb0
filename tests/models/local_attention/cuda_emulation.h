// Lets g++ compile a CUDA source and run it on the host, one block after another, each thread of a block as a fiber.
//
// Shared memory is checked: between two barriers no thread may touch what another one writes, nothing may be read before
// it is written in the same block, and no index may leave its array. A barrier must be reached by all threads of a block.

#pragma once
#define CUDA_EMULATION

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};
static Dim threadIdx, blockIdx;

namespace emulation {

constexpr size_t kStack = 64 << 10;
enum class State { ready, waiting, done };
struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(kStack);
    State state;
};
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static std::function<void()> kernel;
static int current;          // thread that runs
static long epoch, block;    // barriers passed and blocks begun since the library was loaded
static std::string problem;  // the first thing found wrong

inline void report(const std::string& text) {
    if (problem.empty())
        problem = text + " (thread " + std::to_string(current) + ", block " + std::to_string(blockIdx.x) + " " +
                  std::to_string(blockIdx.y) + " " + std::to_string(blockIdx.z) + ")";
}

inline void leave(State state) {
    fibers[current].state = state;
    swapcontext(&fibers[current].context, &scheduler);
}

inline void fiber_main() {
    kernel();
    leave(State::done);
}

inline void run_block(int threads) {
    block++, epoch++;
    fibers.resize(std::max<size_t>(fibers.size(), threads));
    for (int i = 0; i < threads; i++) {
        Fiber& fiber = fibers[i];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.state = State::ready;
        makecontext(&fiber.context, fiber_main, 0);
    }
    for (int alive = threads; alive;) {
        int done = 0;
        for (int i = 0; i < threads; i++) {
            current = epoch % 2 ? threads - 1 - i : i;  // no order can be relied on
            if (fibers[current].state == State::done) continue;
            threadIdx = {unsigned(current), 0, 0};
            swapcontext(&scheduler, &fibers[current].context);
            done += fibers[current].state == State::done;
        }
        if (done && done != alive) report("a barrier is not reached by all threads");
        alive -= done, epoch++;
    }
}

struct Cell {
    float value;
    int writer, reader;  // reader: -1 if several threads read
    long write_epoch = 0, read_epoch = 0, write_block = 0;
};

struct Reference {
    Cell& cell;
    const char* name;
    operator float() const {
        if (cell.write_block != block) report(std::string(name) + " is read before it is written");
        if (cell.write_epoch == epoch && cell.writer != current)
            report(std::string(name) + " is written by one thread and read by another without a barrier between");
        cell.reader = cell.read_epoch == epoch && cell.reader != current ? -1 : current;
        cell.read_epoch = epoch;
        return cell.value;
    }
    void operator=(float value) {
        if (cell.write_epoch == epoch && cell.writer != current)
            report(std::string(name) + " is written by two threads without a barrier between");
        if (cell.read_epoch == epoch && cell.reader != current)
            report(std::string(name) + " is read by one thread and overwritten by another without a barrier between");
        cell.value = value, cell.writer = current, cell.write_epoch = epoch, cell.write_block = block;
    }
};

template <class... A, size_t... I>
void set_kernel(void (*function)(A...), void** arguments, std::index_sequence<I...>) {
    kernel = [=] { function(*static_cast<std::decay_t<A>*>(arguments[I])...); };
}

// Runs a kernel over a grid; returns what was wrong, or an empty text. Arguments are checked against the parameters.
template <class... A>
const char* launch(void (*function)(A...), const unsigned* grid, unsigned threads, void** arguments, const long* sizes,
                   long count) {
    problem.clear();
    const std::vector<long> wanted = {long(sizeof(A))...};
    if (wanted != std::vector<long>(sizes, sizes + count)) {
        problem = "the arguments do not fit the kernel's parameters";
        return problem.c_str();
    }
    set_kernel(function, arguments, std::index_sequence_for<A...>{});
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0] && problem.empty(); blockIdx.x++) run_block(int(threads));
    return problem.c_str();
}

}  // namespace emulation

inline void __syncthreads() { emulation::leave(emulation::State::waiting); }

struct Shared {
    emulation::Cell* cells;
    long count;
    const char* name;
    emulation::Reference operator[](long i) const {
        if (i < 0 || i >= count) {
            emulation::report(std::string(name) + "[" + std::to_string(i) + "] is out of bounds");
            i = 0;
        }
        return {cells[i], name};
    }
};
#define CHECKED_SHARED_FLOATS(name, count)         \
    static emulation::Cell name##_cells[count];    \
    const Shared name { name##_cells, count, #name }

inline float half_to_float(unsigned short bits) {
    _Float16 x;
    std::memcpy(&x, &bits, 2);
    return float(x);
}
inline unsigned short float_to_half(float x) {
    const _Float16 half = _Float16(x);
    unsigned short bits;
    std::memcpy(&bits, &half, 2);
    return bits;
}
inline float float_of_bits(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
inline unsigned bits_of_float(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
