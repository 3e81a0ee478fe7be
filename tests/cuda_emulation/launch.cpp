// The launch of a kernel, and the check of each of its accesses to memory.
#include "engine.h"

#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <link.h>
#include <pthread.h>

extern "C" {
__attribute__((visibility("default"))) char emu_shared_memory[48 << 10];
}

namespace emu {

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
const uint16_t *running_usable = nullptr;
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

#define CHECKS(size)                                                                                     \
    EXPORT void __asan_load##size##_noabort(uintptr_t address) { check_access(address, size, "reads"); } \
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
    if (launch_fails()) return LAUNCH_OUT_OF_RESOURCES;
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
