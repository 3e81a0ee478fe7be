// Memory of the devices and pinned memory of the host. What is fresh is filled with NaN; addresses that were freed are
// not used again for long.
#include "engine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>

namespace emu {

namespace {

constexpr size_t MOST_APART = 1 << 20;  // bytes between two blocks

size_t limit = size_t(8) << 30;

struct Arena {
    size_t cursor = 0, used = 0;
};
Arena arenas[DEVICES + 1];

std::map<char *, Block> blocks;  // by their first address
std::map<char *, Block> freed;   // those that are gone, for messages

char *reserve(size_t bytes) {
    void *start = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) abort();
    return static_cast<char *>(start);
}

// The bytes that stay free after a block: an index that is too large by less than the array is found.
size_t apart(size_t size) { return std::min(std::max(in_grains(size), GRAIN), MOST_APART); }

void set_usable(const Block &block, bool yes) {
    size_t first = (block.data - memory) / GRAIN;
    for (size_t at = 0; at < block.size; at += GRAIN)
        usable[first + at / GRAIN] = yes ? std::min(block.size - at, GRAIN) : 0;
}

// Addresses are handed out in turn, so that one that was freed is not used again for long. Returns null if none is
// left.
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

char *const memory = reserve(ARENA * (DEVICES + 1));
uint16_t *const usable = reinterpret_cast<uint16_t *>(reserve(ARENA / GRAIN * (DEVICES + 1) * sizeof(uint16_t)));

Status allocate(size_t size, int device, char **data) {
    *data = nullptr;
    if (Status status = error()) return status;
    counts.allocations++;
    if (allocation_fails()) return OUT_OF_MEMORY;
    if (arenas[device].used + size > limit) return OUT_OF_MEMORY;
    char *place = place_for(size, device);
    if (!place) return OUT_OF_MEMORY;
    memset(place, 0xFF, size);  // NaN in every floating-point type, -1 in integers
    Block block{place, size, device};
    set_usable(block, true);
    blocks[place] = block;
    freed.erase(freed.lower_bound(place), freed.lower_bound(place + in_grains(size) + apart(size)));
    arenas[device].used += size;
    *data = place;
    return OK;
}

Status allocate_in_order(size_t size, Stream *stream, char **data) {
    if (Status status = allocate(size, stream->device, data)) return status;
    // Another stream that writes there without waiting loses what it wrote.
    char *start = *data;
    give(stream, [start, size] {
        if (block_of(start)) memset(start, 0xFF, size);
    });
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
        size_t first = (block.data - memory + PAGE - 1) / PAGE * PAGE,
               end = (block.data - memory + block.size) / PAGE * PAGE;
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
                   " bytes" +
                   (block.device == PINNED ? " of pinned memory" : " on device " + std::to_string(block.device)) +
                   (all == &freed ? ", which was freed" : "");
    }
    bool ours = address >= memory && address < memory + ARENA * (DEVICES + 1);
    return ours ? "memory between two arrays" : "memory that is not the device's";
}

size_t free_bytes(int device) { return limit - arenas[device].used; }
size_t total_bytes() { return limit; }

}  // namespace emu
