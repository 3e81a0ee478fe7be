// Devices, memory, streams and events. Work is put off as long as synchronisation allows, and then runs in an order
// that a seed chooses; memory that is fresh or freed is filled with NaN or cannot be touched.
#include "engine.h"

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <sys/mman.h>
#include <unistd.h>

namespace emu {

std::recursive_mutex lock;
Counts counts{};
std::mt19937_64 random{0};

namespace {

constexpr size_t ARENA = size_t(1) << 36;  // bytes of addresses for each device; used ones only take memory
constexpr size_t ALIGNMENT = 256;          // CUDA's promise
constexpr size_t PUT_OFF_AT_MOST = 2000;   // operations in a stream
constexpr unsigned char CANARY = 0xA5;     // fills the bytes between a block's end and that of its page

thread_local int device_of_thread = 0;
size_t limit = size_t(8) << 30;
size_t page = sysconf(_SC_PAGESIZE);

struct Arena {
    char *start = nullptr, *cursor = nullptr;
    size_t used = 0;
};
Arena arenas[DEVICES + 1];  // the last is the host's pinned memory

std::map<char *, Block> blocks;  // by the address of their first page
std::map<char *, Block> freed;   // the same of those that are gone, for messages
Stream default_streams[DEVICES];
std::set<Stream *> streams;

Status sticky = OK;
int64_t fail_allocation = -1, fail_launch = -1, lose_device = -1;  // calls until then

Arena &arena_of(int device) {
    Arena &arena = arenas[device < 0 ? DEVICES : device];
    if (!arena.start) {
        void *start = mmap(nullptr, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start == MAP_FAILED) abort();
        arena.start = arena.cursor = static_cast<char *>(start);
    }
    return arena;
}

void check_canary(const Block &block) {
    const char *end = block.pages + block.page_bytes;
    for (const char *p = block.data + block.size; p < end; p++)
        if (static_cast<unsigned char>(*p) != CANARY) {
            fail(ILLEGAL_ADDRESS, "a write beyond the end of a block of " + std::to_string(block.size) + " bytes");
            return;
        }
}

void reroll(Stream *stream) {
    double choice = chance();
    stream->eagerness = choice < 0.4 ? 0 : choice < 0.6 ? 1 : 0.2;
}

thread_local sigjmp_buf *escape = nullptr;
thread_local const void *fault_address = nullptr;
struct sigaction before_segv, before_bus;

void on_fault(int number, siginfo_t *info, void *context) {
    if (escape) {
        fault_address = info->si_addr;
        siglongjmp(*escape, 1);
    }
    // Not ours: as if we had never been here.
    sigaction(number, number == SIGSEGV ? &before_segv : &before_bus, nullptr);
}

}  // namespace

double chance() { return std::uniform_real_distribution<>()(random); }

int current_device() { return device_of_thread; }

Status set_device(int device) {
    if (device < 0 || device >= DEVICES) return INVALID_DEVICE;
    device_of_thread = device;
    return OK;
}

Status error() {
    if (lose_device >= 0 && lose_device-- == 0) fail(DEVICE_UNAVAILABLE, "the device was taken away, as ordered");
    return sticky;
}

void fail(Status status, const std::string &why) {
    if (sticky == OK) {
        sticky = status;
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

Status allocate(size_t size, int device, char **data) {
    *data = nullptr;
    if (Status status = error()) return status;
    counts.allocations++;
    if (fail_allocation >= 0 && fail_allocation-- == 0) return OUT_OF_MEMORY;
    Arena &arena = arena_of(device);
    if (arena.used + size > limit) return OUT_OF_MEMORY;
    size_t whole = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t bytes = (whole + page - 1) / page * page;
    // Addresses are handed out in turn, so that one that was freed is not used again for long. A page on either side
    // stays out of bounds.
    char *place = arena.cursor;
    for (int wrapped = 0;;) {
        if (place + bytes + 2 * page > arena.start + ARENA) {
            if (wrapped++) return OUT_OF_MEMORY;
            place = arena.start;
        }
        auto next = blocks.lower_bound(place);
        if (next != blocks.begin()) {
            const Block &earlier = std::prev(next)->second;
            if (earlier.pages + earlier.page_bytes > place) {
                place = earlier.pages + earlier.page_bytes;
                continue;
            }
        }
        if (next != blocks.end() && next->second.pages < place + bytes + 2 * page) {
            place = next->second.pages + next->second.page_bytes;
            continue;
        }
        break;
    }
    char *pages = place + page;
    if (mprotect(pages, bytes, PROT_READ | PROT_WRITE)) return OUT_OF_MEMORY;
    Block block{pages + bytes - whole, size, pages, bytes, device};
    memset(pages, CANARY, bytes);
    memset(block.data, 0xFF, size);  // NaN in every floating-point type, -1 in integers
    blocks[pages] = block;
    freed.erase(pages);
    arena.cursor = pages + bytes;
    arena.used += size;
    *data = block.data;
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
    Block *block = block_of(data);
    if (!block || block->data != data) return INVALID_VALUE;
    check_canary(*block);
    arenas[block->device < 0 ? DEVICES : block->device].used -= block->size;
    char *pages = block->pages;
    madvise(pages, block->page_bytes, MADV_DONTNEED);
    mprotect(pages, block->page_bytes, PROT_NONE);
    freed[pages] = *block;
    blocks.erase(pages);
    return OK;
}

Block *block_of(const void *pointer) {
    char *address = static_cast<char *>(const_cast<void *>(pointer));
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin()) return nullptr;
    Block &block = std::prev(next)->second;
    return address >= block.data && address < block.data + (block.size ? block.size : 1) ? &block : nullptr;
}

bool inside(const void *pointer, size_t size) {
    Block *block = block_of(pointer);
    return block && static_cast<const char *>(pointer) + size <= block->data + block->size;
}

std::string described(const void *pointer) {
    char *address = static_cast<char *>(const_cast<void *>(pointer));
    for (auto *all : {&blocks, &freed}) {
        auto next = all->upper_bound(address + page);
        if (next == all->begin()) continue;
        const Block &block = std::prev(next)->second;
        if (address < block.pages + block.page_bytes + page)
            return "byte " + std::to_string(address - block.data) + " of a block of " + std::to_string(block.size) +
                   " bytes" + (all == &freed ? ", freed before" : "");
    }
    char text[64];
    snprintf(text, sizeof text, "the address %p, which was never allocated", pointer);
    return text;
}

size_t free_bytes(int device) { return limit - arena_of(device).used; }
size_t total_bytes() { return limit; }

// -- Kernels ----------------------------------------------------------------------------------------------------------

bool guarded(const std::function<void()> &run, const void **address) {
    static bool installed = false;
    if (!installed) {
        struct sigaction action {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
        installed = true;
    }
    sigjmp_buf here, *outer = escape;
    bool well = sigsetjmp(here, 0) == 0;
    if (well) {
        escape = &here;
        run();
    }
    escape = outer;
    if (!well && address) *address = fault_address;
    return well;
}

Status launch(const std::string &name, const Kernel &kernel, const unsigned *grid, const unsigned *block,
              size_t shared_bytes, Stream *stream, void **parameters) {
    if (Status status = error()) return status;
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
            if (found && found->device >= 0 && found->device != stream->device)
                fail(ILLEGAL_ADDRESS, name + " runs on device " + std::to_string(stream->device) +
                                          " and was given memory of device " + std::to_string(found->device));
        }
    }
    std::vector<unsigned> sizes{grid[0], grid[1], grid[2], block[0], block[1], block[2]};
    uint64_t order = random();
    give(stream, [=, values = std::move(values)]() mutable {
        std::vector<void *> pointers;
        for (auto &value : values) pointers.push_back(value.data());
        const void *address = nullptr;
        if (!guarded([&] { kernel.launch(&sizes[0], &sizes[3], shared_bytes, pointers.data(), order); }, &address)) {
            fail(ILLEGAL_ADDRESS, name + " touched " + described(address));
        }
    });
    return error();
}

}  // namespace emu

// -- What the tests ask for -------------------------------------------------------------------------------------------

using namespace emu;

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

EXPORT void emu_clear_error() {
    std::lock_guard<std::recursive_mutex> held(lock);
    sticky = OK;
}

EXPORT void emu_set_limit(size_t bytes) {
    std::lock_guard<std::recursive_mutex> held(lock);
    limit = bytes;
}
