// What the emulated interfaces share: devices, memory, streams, events, counters and faults to order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace emu {

// CUDA's error numbers; the runtime's and the driver's are the same from 700 on and for those used here.
enum Status {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_HANDLE = 400,
    MISALIGNED_ADDRESS = 716,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_ISOLATION = 905,
    CAPTURED_EVENT = 907,
    DEVICE_UNAVAILABLE = 46,
};

struct Words {
    int status;
    const char *runtime, *driver, *text;
};
const Words &words_for(int status);

constexpr int DEVICES = 2;
constexpr int PINNED = DEVICES;  // stands for the host in the place of a device

struct Stream;
using Position = std::pair<Stream *, uint64_t>;  // what a stream has been given up to there

struct Operation {
    std::function<void()> run;
    std::vector<Position> after;  // must have run before
};

// What a stream is given while it is captured: the operations of a graph, which run when that is launched.
struct Capture {
    std::vector<std::function<void()>> operations;
    bool spoilt = false;  // by a call that cannot be part of a graph
};

struct Stream {
    int device = 0;
    bool blocking = true;  // whether it waits for the default stream and the default stream for it
    unsigned flags = 0;
    int priority = 0;
    double eagerness = 0;  // chance that work runs as soon as it is given
    uint64_t given = 0, done = 0;
    std::deque<Operation> queue;
    std::shared_ptr<Capture> capture;  // null when it is not captured
};

struct Event {
    Position recorded{nullptr, 0};
    bool captured = false;  // recorded in a stream that was captured: part of a graph
    double seconds = 0;  // when it ran
};

struct Block {
    char *data = nullptr;
    size_t size = 0;
    int device = 0;  // PINNED: the host's memory
};

struct Counts {
    int64_t launches, products, host_to_device, device_to_host, device_to_device, fills, allocations, synchronisations,
        graphs, calls;
};

extern std::recursive_mutex lock;
extern Counts counts;
extern std::mt19937_64 random;

int current_device();
Status set_device(int device);
Status error();  // sticky, once something went wrong on a device
void fail(Status status, const std::string &why);
bool allocation_fails();  // as the tests ordered
bool launch_fails();
double chance();  // uniform, from 0 to 1

Stream *stream_of(void *handle);  // 0 and 1 are the default stream
Stream *new_stream(unsigned flags, int priority);
void delete_stream(Stream *stream);
void give(Stream *stream, std::function<void()> run, std::vector<Position> after = {});
void run_until(Position position);
void synchronise(Stream *stream);
void synchronise_device();
Status spoil(Stream *stream);      // refuses what waits for a stream that is captured, as it has not run
Status spoil_all();                // refuses what waits for a device one of whose streams is captured
bool is_done(Position position);  // and, by chance, makes some work run that was put off

// One arena of addresses after the other: those of the devices, and that of the host's pinned memory.
constexpr size_t ARENA = size_t(1) << 35;  // bytes; only those that are used take memory
constexpr size_t GRAIN = 256;              // blocks begin at its multiples, as CUDA promises
extern char *const memory;
extern uint16_t *const usable;  // how many bytes of each grain can be touched, counted from its start
inline size_t in_grains(size_t size) { return (size + GRAIN - 1) / GRAIN * GRAIN; }

Status allocate(size_t size, int device, char **data);
Status allocate_in_order(size_t size, Stream *stream, char **data);
Status release(char *data);
Block *block_of(const void *pointer);           // the live block that holds it, or null
bool inside(const void *pointer, size_t size);  // whether all of it is in one live block
std::string described(const void *pointer);     // for a message
size_t free_bytes(int device);
size_t total_bytes();
bool in_fibers(uintptr_t address);  // whether it is on the stack of a thread of a block

void add_module_memory(const void *address);  // lets kernels use the constants and shared variables of their library

// One launch of a kernel; see include/device.h for the other side.
struct Kernel {
    void (*launch)(const unsigned *grid, const unsigned *block, size_t shared_bytes, void **parameters, uint64_t order);
    const size_t *sizes;  // of the parameters
    size_t count;
};
Status launch(const std::string &name, const Kernel &kernel, const unsigned *grid, const unsigned *block,
              size_t shared_bytes, Stream *stream, void **parameters);

}  // namespace emu
