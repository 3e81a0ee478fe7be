// Devices, memory, streams and events. Work is put off as long as synchronisation allows, and then runs in an order
// that a seed chooses. Fresh memory is filled with NaN, and each access of a kernel is checked.
#include "engine.h"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <link.h>
#include <pthread.h>
#include <set>
#include <sys/mman.h>

EXPORT char emu_shared_memory[48 << 10] = {};

namespace emu {

std::recursive_mutex lock;
Counts counts{};
std::mt19937_64 random{0};

namespace {

constexpr size_t ARENA = size_t(1) << 35;  // addresses for each device and the host; only used ones take memory
constexpr size_t GRAIN = 256;              // blocks begin at its multiples, as CUDA promises
constexpr size_t MOST_APART = 1 << 20;     // bytes between two blocks
constexpr size_t PUT_OFF_AT_MOST = 2000;   // operations in a stream

thread_local int device_of_thread = 0;
size_t limit = size_t(8) << 30;

void *reserve(size_t bytes) {
    void *start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) abort();
    return start;
}

// One arena after the other: those of the devices, and that of the host's pinned memory.
char *const memory = static_cast<char *>(reserve(ARENA * (DEVICES + 1)));
// How many bytes of each grain can be touched, counted from its start.
uint16_t *const usable = static_cast<uint16_t *>(reserve(ARENA / GRAIN * (DEVICES + 1) * sizeof(uint16_t)));

struct Arena {
    size_t cursor = 0, used = 0;
};
Arena arenas[DEVICES + 1];

std::map<char *, Block> blocks;  // by their first address
std::map<char *, Block> freed;   // those that are gone, for messages
Stream default_streams[DEVICES];
std::set<Stream *> streams;

Status sticky = OK;
std::string failure;  // why
int64_t fail_allocation = -1, fail_launch = -1, lose_device = -1;  // calls until then

void reroll(Stream *stream) {
    double choice = chance();
    stream->eagerness = choice < 0.4 ? 0 : choice < 0.6 ? 1 : 0.2;
}

}  // namespace

const Words &words_for(int status) {
    static const Words words[] = {
        {OK, "cudaSuccess", "CUDA_SUCCESS", "no error"},
        {INVALID_VALUE, "cudaErrorInvalidValue", "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
        {OUT_OF_MEMORY, "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
        {DEVICE_UNAVAILABLE, "cudaErrorDevicesUnavailable", "CUDA_ERROR_DEVICE_UNAVAILABLE",
         "CUDA-capable device(s) is/are busy or unavailable"},
        {INVALID_DEVICE, "cudaErrorInvalidDevice", "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
        {INVALID_HANDLE, "cudaErrorInvalidResourceHandle", "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
        {NOT_FOUND, "cudaErrorSymbolNotFound", "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
        {NOT_READY, "cudaErrorNotReady", "CUDA_ERROR_NOT_READY", "device not ready"},
        {ILLEGAL_ADDRESS, "cudaErrorIllegalAddress", "CUDA_ERROR_ILLEGAL_ADDRESS",
         "an illegal memory access was encountered"},
        {LAUNCH_OUT_OF_RESOURCES, "cudaErrorLaunchOutOfResources", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
         "too many resources requested for launch"},
        {MISALIGNED_ADDRESS, "cudaErrorMisalignedAddress", "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
        {NOT_SUPPORTED, "cudaErrorNotSupported", "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    };
    for (const Words &entry : words)
        if (entry.status == status) return entry;
    static const Words unknown{999, "cudaErrorUnknown", "CUDA_ERROR_UNKNOWN", "unknown error"};
    return unknown;
}

double chance() { return std::uniform_real_distribution<>()(random); }

int current_device() { return device_of_thread; }

Status set_device(int device) {
    if (device < 0 || device >= DEVICES) return INVALID_DEVICE;
    device_of_thread = device;
    return OK;
}

Status error() {
    counts.calls++;
    if (lose_device >= 0 && lose_device-- == 0) fail(DEVICE_UNAVAILABLE, "the device was taken away, as ordered");
    return sticky;
}

void fail(Status status, const std::string &why) {
    if (sticky == OK) {
        sticky = status;
        failure = why;
        fprintf(stderr, "emulated CUDA: %s\n", why.c_str());
    }
}

// -- Streams ----------------------------------------------------------------------------------------------------------

Stream *stream_of(void *handle) {
    if (reinterpret_cast<uintptr_t>(handle) > 2) return static_cast<Stream *>(handle);
    Stream *stream = &default_streams[device_of_thread];
    stream->device = device_of_thread;
    return stream;
}

Stream *new_stream(unsigned flags, int priority) {
    Stream *stream = new Stream;
    stream->device = device_of_thread;
    stream->blocking = !(flags & 1);
    stream->flags = flags;
    stream->priority = priority;
    reroll(stream);
    streams.insert(stream);
    return stream;
}

void delete_stream(Stream *stream) {
    run_until({stream, stream->given});  // CUDA lets it finish, too
    streams.erase(stream);
    // The object stays, as events may refer to it; it is small.
}

void give(Stream *stream, std::function<void()> run, std::vector<Position> after) {
    if (error() != OK) return;
    Stream *standard = &default_streams[stream->device];
    if (stream == standard) {
        for (Stream *other : streams)
            if (other->blocking && other->device == stream->device && other->done < other->given)
                after.push_back({other, other->given});
    } else if (stream->blocking && standard->done < standard->given) {
        after.push_back({standard, standard->given});
    }
    stream->queue.push_back({std::move(run), std::move(after)});
    stream->given++;
    if (stream->queue.size() > PUT_OFF_AT_MOST || chance() < stream->eagerness) run_until({stream, stream->given});
}

void run_until(Position position) {
    auto [stream, until] = position;
    while (stream && stream->done < until) {
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        for (Position earlier : operation.after) run_until(earlier);
        if (sticky == OK) operation.run();
        stream->done++;
    }
}

void synchronise(Stream *stream) {
    counts.synchronisations++;
    run_until({stream, stream->given});
    reroll(stream);
}

void synchronise_device() {
    counts.synchronisations++;
    std::vector<Stream *> all(streams.begin(), streams.end());
    all.push_back(&default_streams[device_of_thread]);
    std::shuffle(all.begin(), all.end(), random);
    for (Stream *stream : all)
        if (stream->device == device_of_thread) run_until({stream, stream->given});
}

bool is_done(Position position) {
    auto [stream, until] = position;
    if (!stream || stream->done >= until) return true;
    if (chance() < 0.5) run_until({stream, stream->done + 1});
    return stream->done >= until;
}

// -- Memory -----------------------------------------------------------------------------------------------------------

namespace {

size_t in_grains(size_t size) { return (size + GRAIN - 1) / GRAIN * GRAIN; }

// The bytes that stay free after a block: an index that is too large by less than the array is found.
size_t apart(size_t size) { return std::min(std::max(in_grains(size), GRAIN), MOST_APART); }

void set_usable(const Block &block, bool yes) {
    size_t first = (block.data - memory) / GRAIN;
    for (size_t at = 0; at < block.size; at += GRAIN)
        usable[first + at / GRAIN] = yes ? std::min(block.size - at, GRAIN) : 0;
}

// Addresses are handed out in turn, so that one that was freed is not used again for long. Returns null if none is left.
char *place_for(size_t size, int device) {
    Arena &arena = arenas[device];
    char *start = memory + ARENA * device;
    size_t bytes = in_grains(size) + apart(size);
    if (arena.cursor > (size_t(256) << 20) + 4 * arena.used) arena.cursor = 0;
    for (int wrapped = 0; wrapped < 2;) {
        char *place = start + arena.cursor;
        if (arena.cursor + bytes > ARENA) {
            arena.cursor = 0;
            wrapped++;
            continue;
        }
        auto next = blocks.lower_bound(place);
        if (next != blocks.begin()) {
            const Block &earlier = std::prev(next)->second;
            if (earlier.device == device && earlier.data + in_grains(earlier.size) + apart(earlier.size) > place) {
                arena.cursor = earlier.data + in_grains(earlier.size) + apart(earlier.size) - start;
                continue;
            }
        }
        if (next != blocks.end() && next->second.data < place + bytes) {
            const Block &later = next->second;
            arena.cursor = later.data + in_grains(later.size) + apart(later.size) - start;
            continue;
        }
        arena.cursor += bytes;
        return place;
    }
    return nullptr;
}

}  // namespace

Status allocate(size_t size, int device, char **data) {
    *data = nullptr;
    if (Status status = error()) return status;
    counts.allocations++;
    if (fail_allocation >= 0 && fail_allocation-- == 0) return OUT_OF_MEMORY;
    if (arenas[device].used + size > limit) return OUT_OF_MEMORY;
    char *place = place_for(size, device);
    if (!place) return OUT_OF_MEMORY;
    memset(place, 0xFF, size);  // NaN in every floating-point type, -1 in integers
    Block block{place, size, device};
    set_usable(block, true);
    blocks[place] = block;
    freed.erase(place);
    arenas[device].used += size;
    *data = place;
    return OK;
}

Status allocate_in_order(size_t size, Stream *stream, char **data) {
    if (Status status = allocate(size, stream->device, data)) return status;
    // Another stream that writes there without waiting loses what it wrote.
    char *start = *data;
    give(stream, [start, size] { if (block_of(start)) memset(start, 0xFF, size); });
    return OK;
}

Status release(char *data) {
    if (!data) return OK;
    auto found = blocks.find(data);
    if (found == blocks.end()) return INVALID_VALUE;
    Block block = found->second;
    blocks.erase(found);
    freed[data] = block;
    set_usable(block, false);
    arenas[block.device].used -= block.size;
    constexpr size_t PAGE = 4096;
    if (block.size >= 16 * PAGE) {
        size_t first = (block.data - memory + PAGE - 1) / PAGE * PAGE, end = (block.data - memory + block.size) / PAGE * PAGE;
        madvise(memory + first, end - first, MADV_DONTNEED);
    }
    return OK;
}

Block *block_of(const void *pointer) {
    char *address = static_cast<char *>(const_cast<void *>(pointer));
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin()) return nullptr;
    Block &block = std::prev(next)->second;
    return address < block.data + std::max<size_t>(block.size, 1) ? &block : nullptr;
}

bool inside(const void *pointer, size_t size) {
    Block *block = block_of(pointer);
    return block && static_cast<const char *>(pointer) + size <= block->data + block->size;
}

std::string described(const void *pointer) {
    char *address = static_cast<char *>(const_cast<void *>(pointer));
    for (auto *all : {&blocks, &freed}) {
        auto next = all->upper_bound(address);
        if (next == all->begin()) continue;
        const Block &block = std::prev(next)->second;
        if (address < block.data + in_grains(block.size) + apart(block.size))
            return "byte " + std::to_string(address - block.data) + " of an array of " + std::to_string(block.size) +
                   " bytes" + (block.device == PINNED ? " of pinned memory" : " on device " + std::to_string(block.device)) +
                   (all == &freed ? ", which was freed" : "");
    }
    bool ours = address >= memory && address < memory + ARENA * (DEVICES + 1);
    return ours ? "memory between two arrays" : "memory that is not the device's";
}

size_t free_bytes(int device) { return limit - arenas[device].used; }
size_t total_bytes() { return limit; }

// -- Kernels ----------------------------------------------------------------------------------------------------------

namespace {

struct Running {
    std::string name;
    int device;
    size_t shared_bytes;
    jmp_buf leave;
};
Running *running = nullptr;
// Of the kernel that runs: its device's arena, and the stack of the thread that plays the GPU.
uintptr_t arena_start = 0, stack_start = 0;
const uint16_t *running_usable = usable;
size_t stack_size = 0;
std::map<uintptr_t, uintptr_t> modules;  // first address of each library of kernels, and the one behind its end

void find_stack() {
    thread_local void *start = nullptr;
    thread_local size_t size = 0;
    if (!start) {
        pthread_attr_t attributes;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &start, &size);
        pthread_attr_destroy(&attributes);
    }
    stack_start = reinterpret_cast<uintptr_t>(start);
    stack_size = size;
}

bool in_module(uintptr_t address) {
    auto next = modules.upper_bound(address);
    return next != modules.begin() && address < std::prev(next)->second;
}

// Whether all bytes are of one array, of any device or of the host's pinned memory.
bool in_arrays(size_t offset, size_t size) {
    for (size_t at = offset; at < offset + size; at = in_grains(at + 1))
        if (std::min(offset + size - at / GRAIN * GRAIN, GRAIN) > usable[at / GRAIN]) return false;
    return true;
}

__attribute__((noinline)) void check_carefully(uintptr_t address, size_t size, const char *verb) {
    if (!running) return;
    Status status = ILLEGAL_ADDRESS;
    size_t offset = address - reinterpret_cast<uintptr_t>(memory);
    if (offset >= ARENA * (DEVICES + 1)) {
        size_t shared = address - reinterpret_cast<uintptr_t>(emu_shared_memory);
        if (shared + size <= running->shared_bytes || in_fibers(address) || in_module(address)) return;
    } else if ((size & (size - 1)) == 0 && address & (size - 1)) {
        status = MISALIGNED_ADDRESS;
    } else {
        int device = static_cast<int>(offset / ARENA);
        if ((device == running->device || device == PINNED) && in_arrays(offset, size)) return;
    }
    fail(status, running->name + " on device " + std::to_string(running->device) + " " + verb + " " +
                     std::to_string(size) + " bytes at " + described(reinterpret_cast<void *>(address)));
    longjmp(running->leave, 1);
}

// The compiler makes kernels call this before each access (-fsanitize=kernel-address).
inline void check_access(uintptr_t address, size_t size, const char *verb) {
    if (address - stack_start < stack_size) return;
    size_t offset = address - arena_start;
    if (offset < ARENA && !(address & (size - 1)) && address % GRAIN + size <= running_usable[offset / GRAIN]) return;
    check_carefully(address, size, verb);
}

}  // namespace

#define CHECKS(size)                                                                                                   \
    EXPORT void __asan_load##size##_noabort(uintptr_t address) { check_access(address, size, "reads"); }               \
    EXPORT void __asan_store##size##_noabort(uintptr_t address) { check_access(address, size, "writes"); }
CHECKS(1)
CHECKS(2)
CHECKS(4)
CHECKS(8)
CHECKS(16)
EXPORT void __asan_loadN_noabort(uintptr_t address, size_t size) {
    if (address - stack_start >= stack_size) check_carefully(address, size, "reads");
}
EXPORT void __asan_storeN_noabort(uintptr_t address, size_t size) {
    if (address - stack_start >= stack_size) check_carefully(address, size, "writes");
}
EXPORT void __asan_handle_no_return() {}

void add_module_memory(const void *address) {
    dl_iterate_phdr(
        [](dl_phdr_info *library, size_t, void *wanted) {
            uintptr_t first = UINTPTR_MAX, end = 0;
            for (int i = 0; i < library->dlpi_phnum; i++)
                if (const auto &part = library->dlpi_phdr[i]; part.p_type == PT_LOAD) {
                    first = std::min<uintptr_t>(first, library->dlpi_addr + part.p_vaddr);
                    end = std::max<uintptr_t>(end, library->dlpi_addr + part.p_vaddr + part.p_memsz);
                }
            if (reinterpret_cast<uintptr_t>(wanted) < first || reinterpret_cast<uintptr_t>(wanted) >= end) return 0;
            modules[first] = end;
            return 1;
        },
        const_cast<void *>(address));
}

Status launch(const std::string &name, const Kernel &kernel, const unsigned *grid, const unsigned *block,
              size_t shared_bytes, Stream *stream, void **parameters) {
    if (Status status = error()) return status;
    if (stream->device != current_device()) return INVALID_HANDLE;
    counts.launches++;
    if (fail_launch >= 0 && fail_launch-- == 0) return LAUNCH_OUT_OF_RESOURCES;
    size_t threads = size_t(block[0]) * block[1] * block[2];
    if (!threads || threads > 1024 || !grid[0] || !grid[1] || !grid[2] || grid[1] > 65535 || grid[2] > 65535 ||
        shared_bytes > 48 << 10)
        return INVALID_VALUE;
    // Parameters are copied now, as CUDA does: the caller may reuse its memory.
    std::vector<std::vector<char>> values;
    for (size_t i = 0; i < kernel.count; i++) {
        char *value = static_cast<char *>(parameters[i]);
        values.emplace_back(value, value + kernel.sizes[i]);
        for (size_t at = 0; at + sizeof(void *) <= kernel.sizes[i]; at += sizeof(void *)) {
            void *pointer;
            memcpy(&pointer, value + at, sizeof pointer);
            Block *found = block_of(pointer);
            if (found && found->device != PINNED && found->device != stream->device)
                fail(ILLEGAL_ADDRESS, name + " runs on device " + std::to_string(stream->device) +
                                          " and was given memory of device " + std::to_string(found->device));
        }
    }
    std::vector<unsigned> sizes{grid[0], grid[1], grid[2], block[0], block[1], block[2]};
    uint64_t order = random();
    give(stream, [=, values = std::move(values)]() mutable {
        std::vector<void *> pointers;
        for (auto &value : values) pointers.push_back(value.data());
        Running now{name, stream->device, shared_bytes, {}};
        running = &now;
        arena_start = reinterpret_cast<uintptr_t>(memory) + ARENA * stream->device;
        running_usable = usable + ARENA / GRAIN * stream->device;
        find_stack();
        if (!setjmp(now.leave)) kernel.launch(&sizes[0], &sizes[3], shared_bytes, pointers.data(), order);
        running = nullptr;
    });
    return error();
}

}  // namespace emu

// -- What the tests ask for -------------------------------------------------------------------------------------------

using namespace emu;

extern "C" int cudaGetLastError();

EXPORT void emu_seed(uint64_t seed) {
    std::lock_guard<std::recursive_mutex> held(lock);
    emu::random.seed(seed);
    for (Stream *stream : streams) reroll(stream);
    for (Stream &stream : default_streams) reroll(&stream);
}

EXPORT void emu_counts(Counts *result) {
    std::lock_guard<std::recursive_mutex> held(lock);
    *result = counts;
}

// Each number says how many such calls still succeed; -1 lets all succeed. The last is any call.
EXPORT void emu_order_faults(int64_t allocation, int64_t launch, int64_t any) {
    std::lock_guard<std::recursive_mutex> held(lock);
    fail_allocation = allocation;
    fail_launch = launch;
    lose_device = any;
}

EXPORT const char *emu_failure() { return failure.c_str(); }

EXPORT void emu_finish() {
    std::lock_guard<std::recursive_mutex> held(lock);
    for (int before = current_device(), device = 0; device < DEVICES; device++) {
        set_device(device);
        synchronise_device();
        set_device(before);
    }
}

EXPORT void emu_recover() {
    std::lock_guard<std::recursive_mutex> held(lock);
    emu_finish();
    sticky = OK;
    failure.clear();
    cudaGetLastError();
}
