// The runtime interface (cudart). CuPy links it statically, so its functions are redirected here when CuPy is loaded;
// see redirect.py. Functions that are missing here report that they are not supported.
#include <chrono>
#include <cstring>
#include <set>

#include "engine.h"

using namespace emu;
using Held = std::lock_guard<std::recursive_mutex>;

namespace {

thread_local Status last = OK;

int told(Status status) {
    if (status != OK) last = status;
    return status;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::set<Event *> events;

bool on_device(const void *pointer) {
    Block *block = block_of(pointer);
    return block && block->device != PINNED;
}

bool pinned(const void *pointer) {
    Block *block = block_of(pointer);
    return block && block->device == PINNED;
}

// Copies rows; one row for a plain copy.
Status copy(char *target, size_t target_pitch, const char *source, size_t source_pitch, size_t width, size_t height,
            Stream *stream, bool wait) {
    if (Status status = error()) return status;
    if (!width || !height) return OK;
    // A graph would read pageable memory whenever it is launched, and nothing can wait for what only runs then.
    if (stream->capture && (wait || (!on_device(source) && !pinned(source)) || (!on_device(target) && !pinned(target))))
        return spoil(stream);
    size_t target_bytes = target_pitch * (height - 1) + width, source_bytes = source_pitch * (height - 1) + width;
    bool to_device = on_device(target), from_device = on_device(source);
    if (to_device && !inside(target, target_bytes)) return INVALID_VALUE;
    if (from_device && !inside(source, source_bytes)) return INVALID_VALUE;
    (to_device && from_device ? counts.device_to_device : to_device ? counts.host_to_device : counts.device_to_host)++;
    bool paged = !from_device && !pinned(source), to_pages = !to_device && !pinned(target);
    auto run = [=](const char *from) {
        if ((!paged && !inside(from, source_bytes)) || (!to_pages && !inside(target, target_bytes)))
            return fail(ILLEGAL_ADDRESS, "a copy runs from " + described(from) + " to " + described(target));
        for (size_t row = 0; row < height; row++)
            memmove(target + row * target_pitch, from + row * source_pitch, width);
    };
    if (paged) {
        // Pageable memory is read before the call returns.
        std::vector<char> kept(source, source + source_bytes);
        give(stream, [run, kept = std::move(kept)] { run(kept.data()); });
    } else {
        give(stream, [run, source] { run(source); });
    }
    // Into pageable memory the copy is complete when the call returns.
    if (wait || to_pages) synchronise(stream);
    return error();
}

Status fill(char *target, size_t pitch, int value, size_t width, size_t height, Stream *stream) {
    if (Status status = error()) return status;
    if (!width || !height) return OK;
    if (!inside(target, pitch * (height - 1) + width)) return INVALID_VALUE;
    counts.fills++;
    give(stream, [=] {
        if (!inside(target, pitch * (height - 1) + width))
            return fail(ILLEGAL_ADDRESS, "a fill touches " + described(target));
        for (size_t row = 0; row < height; row++) memset(target + row * pitch, value, width);
    });
    return error();
}

int attribute(int number) {
    switch (number) {
        case 1: return 1024;  // threads in a block
        case 2:
        case 3: return 1024;  // along x and y
        case 4: return 64;
        case 5: return 2147483647;  // blocks along x
        case 6:
        case 7: return 65535;
        case 8: return 48 << 10;  // shared memory of a block
        case 10: return 32;       // threads in a warp
        case 12: return 65536;    // registers
        case 16: return 4;        // processors
        case 19: return 1;        // host memory can be mapped
        case 31: return 1;        // kernels run beside each other
        case 38: return 4 << 20;  // second-level cache
        case 39: return 2048;     // threads on a processor
        case 40: return 2;        // copying engines
        case 41: return 1;        // unified addresses
        case 75: return 9;        // compute capability
        case 76: return 0;
        case 81: return 64 << 10;  // shared memory of a processor
        case 82: return 65536;
        case 97: return 48 << 10;  // shared memory that a kernel can ask for
        case 115: return 1;        // allocation in the order of streams
        default: return 0;
    }
}

}  // namespace

EXPORT int cudaGetLastError() { return std::exchange(last, OK); }
EXPORT int cudaPeekAtLastError() { return last; }
EXPORT const char *cudaGetErrorName(int status) { return words_for(status).runtime; }
EXPORT const char *cudaGetErrorString(int status) { return words_for(status).text; }
EXPORT int cudaDriverGetVersion(int *version) {
    *version = CUDA_MAJOR * 1000;
    return OK;
}
EXPORT int cudaRuntimeGetVersion(int *version) {
    *version = CUDA_MAJOR * 1000;
    return OK;
}

// -- Devices ----------------------------------------------------------------------------------------------------------

EXPORT int cudaGetDeviceCount(int *count) {
    *count = DEVICES;
    return OK;
}
EXPORT int cudaGetDevice(int *device) {
    *device = current_device();
    return OK;
}
EXPORT int cudaSetDevice(int device) { return told(set_device(device)); }
EXPORT int cudaDeviceGetAttribute(int *value, int number, int device) {
    *value = attribute(number);
    return OK;
}
EXPORT int cudaDeviceGetByPCIBusId(int *device, const char *id) {
    *device = id[6] - '1';
    return OK;
}
EXPORT int cudaDeviceGetPCIBusId(char *id, int length, int device) {
    snprintf(id, length, "0000:0%d:00.0", device + 1);
    return OK;
}
EXPORT int cudaDeviceCanAccessPeer(int *can, int, int) {
    *can = 0;
    return OK;
}
EXPORT int cudaDeviceEnablePeerAccess(int, unsigned) { return told(NOT_SUPPORTED); }
EXPORT int cudaDeviceDisablePeerAccess(int) { return told(NOT_SUPPORTED); }
EXPORT int cudaDeviceGetLimit(size_t *value, int) {
    *value = 1024;
    return OK;
}
EXPORT int cudaDeviceSetLimit(int, size_t) { return OK; }
EXPORT int cudaProfilerStart() { return OK; }
EXPORT int cudaProfilerStop() { return OK; }

// The offsets of what differs between versions in cudaDeviceProp.
struct Layout {
    size_t size, processors, mapping, concurrent, bus, engines, addressing, cache, threads, shared, registers, optin, pools;
};

static int properties_of(char *properties, int device, const Layout &at) {
    if (device < 0 || device >= DEVICES) return told(INVALID_DEVICE);
    memset(properties, 0, at.size);
    auto set = [&](size_t offset, auto value) { memcpy(properties + offset, &value, sizeof value); };
    snprintf(properties, 256, "Emulated GPU %d", device);
    properties[256] = static_cast<char>(device + 1);  // uuid
    set(288, total_bytes());
    set(296, size_t(48 << 10));
    set(304, 65536);
    set(308, 32);
    set(320, 1024);
    for (int axis = 0; axis < 3; axis++) {
        set(324 + 4 * axis, attribute(2 + axis));
        set(336 + 4 * axis, attribute(5 + axis));
    }
    set(360, attribute(75));
    set(364, attribute(76));
    set(at.processors, attribute(16));
    set(at.mapping, 1);
    set(at.concurrent, 1);
    set(at.bus, device + 1);
    set(at.engines, 2);
    set(at.addressing, 1);
    set(at.cache, attribute(38));
    set(at.threads, attribute(39));
    set(at.shared, size_t(attribute(81)));
    set(at.registers, attribute(82));
    set(at.optin, size_t(attribute(97)));
    set(at.pools, 1);
    return OK;
}

EXPORT int cudaGetDeviceProperties_v2(char *properties, int device) {  // CUDA 12
    return properties_of(properties, device, {1032, 388, 400, 576, 584, 600, 604, 616, 624, 640, 648, 696, 744});
}
EXPORT int cudaGetDeviceProperties(char *properties, int device) {  // CUDA 13
    return properties_of(properties, device, {1008, 384, 392, 560, 568, 584, 588, 596, 604, 624, 632, 672, 720});
}

EXPORT int cudaDeviceSynchronize() {
    Held held(lock);
    if (Status status = spoil_all()) return told(status);
    synchronise_device();
    return told(error());
}

// -- Memory -----------------------------------------------------------------------------------------------------------

EXPORT int cudaMalloc(char **data, size_t size) {
    Held held(lock);
    return told(allocate(size, current_device(), data));
}

EXPORT int cudaFree(char *data) {
    Held held(lock);
    if (data) synchronise_device();  // as on a GPU
    return told(release(data));
}

EXPORT int cudaMallocAsync(char **data, size_t size, void *stream) {
    Held held(lock);
    if (stream_of(stream)->capture) return told(NOT_SUPPORTED);  // CUDA has nodes for it
    return told(allocate_in_order(size, stream_of(stream), data));
}

EXPORT int cudaMallocFromPoolAsync(char **data, size_t size, void *pool, void *stream) {
    return cudaMallocAsync(data, size, stream);
}

EXPORT int cudaFreeAsync(char *data, void *stream) {
    Held held(lock);
    if (data && !block_of(data)) return told(INVALID_VALUE);
    give(stream_of(stream), [data] {
        if (release(data) != OK) fail(INVALID_VALUE, "memory was freed twice");
    });
    return OK;  // an earlier error is told by the next call that computes something
}

EXPORT int cudaHostAlloc(char **data, size_t size, unsigned flags) {
    Held held(lock);
    return told(allocate(size, PINNED, data));
}

EXPORT int cudaFreeHost(char *data) {
    Held held(lock);
    for (int device = 0; device < DEVICES; device++) {  // CUDA waits for whoever still uses it
        int before = current_device();
        set_device(device);
        synchronise_device();
        set_device(before);
    }
    return told(release(data));
}

EXPORT int cudaMemGetInfo(size_t *free, size_t *total) {
    Held held(lock);
    *free = free_bytes(current_device());
    *total = total_bytes();
    return OK;
}

EXPORT int cudaPointerGetAttributes(void *attributes, const void *pointer) {
    Held held(lock);
    struct {
        int type, device;
        const void *device_pointer, *host_pointer;
    } found{0, 0, nullptr, nullptr};
    if (Block *block = block_of(pointer)) {
        found.type = block->device == PINNED ? 1 : 2;
        found.device = block->device == PINNED ? 0 : block->device;
        found.device_pointer = pointer;
        found.host_pointer = block->device == PINNED ? pointer : nullptr;
    }
    memcpy(attributes, &found, sizeof found);
    return OK;
}

EXPORT int cudaMemcpy(char *target, const char *source, size_t size, int) {
    Held held(lock);
    return told(copy(target, 0, source, 0, size, 1, stream_of(nullptr), true));
}
EXPORT int cudaMemcpyAsync(char *target, const char *source, size_t size, int, void *stream) {
    Held held(lock);
    return told(copy(target, 0, source, 0, size, 1, stream_of(stream), false));
}
EXPORT int cudaMemcpyPeer(char *target, int, const char *source, int, size_t size) {
    Held held(lock);
    return told(copy(target, 0, source, 0, size, 1, stream_of(nullptr), true));
}
EXPORT int cudaMemcpyPeerAsync(char *target, int, const char *source, int, size_t size, void *stream) {
    Held held(lock);
    return told(copy(target, 0, source, 0, size, 1, stream_of(stream), false));
}
EXPORT int cudaMemcpy2D(char *target, size_t pitch, const char *source, size_t source_pitch, size_t width,
                        size_t height, int) {
    Held held(lock);
    return told(copy(target, pitch, source, source_pitch, width, height, stream_of(nullptr), true));
}
EXPORT int cudaMemcpy2DAsync(char *target, size_t pitch, const char *source, size_t source_pitch, size_t width,
                             size_t height, int, void *stream) {
    Held held(lock);
    return told(copy(target, pitch, source, source_pitch, width, height, stream_of(stream), false));
}
EXPORT int cudaMemset(char *target, int value, size_t size) {
    Held held(lock);
    return told(fill(target, 0, value, size, 1, stream_of(nullptr)));
}
EXPORT int cudaMemsetAsync(char *target, int value, size_t size, void *stream) {
    Held held(lock);
    return told(fill(target, 0, value, size, 1, stream_of(stream)));
}

// One pool for each device, whose handle only has to be something.
EXPORT int cudaDeviceGetDefaultMemPool(void **pool, int device) {
    *pool = reinterpret_cast<void *>(8L + device);
    return OK;
}
EXPORT int cudaDeviceGetMemPool(void **pool, int device) { return cudaDeviceGetDefaultMemPool(pool, device); }
EXPORT int cudaDeviceSetMemPool(int, void *) { return OK; }
EXPORT int cudaMemPoolSetAttribute(void *, int, void *) { return OK; }
EXPORT int cudaMemPoolTrimTo(void *, size_t) { return OK; }
EXPORT int cudaMemPoolGetAttribute(void *pool, int number, uint64_t *value) {
    size_t used = total_bytes() - free_bytes(static_cast<int>(reinterpret_cast<intptr_t>(pool) - 8));
    *value = number < 4 ? 0 : number == 4 ? UINT64_MAX : used;  // 4 is the threshold above which memory goes back
    return OK;
}

// -- Streams and events -----------------------------------------------------------------------------------------------

EXPORT int cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) {
    Held held(lock);
    *stream = new_stream(flags, priority);
    return told(error());
}
EXPORT int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
EXPORT int cudaStreamCreate(void **stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
EXPORT int cudaStreamDestroy(void *stream) {
    Held held(lock);
    delete_stream(stream_of(stream));
    return OK;
}
EXPORT int cudaStreamGetFlags(void *stream, unsigned *flags) {
    *flags = stream_of(stream)->flags;
    return OK;
}
EXPORT int cudaStreamGetPriority(void *stream, int *priority) {
    *priority = stream_of(stream)->priority;
    return OK;
}
EXPORT int cudaStreamSynchronize(void *stream) {
    Held held(lock);
    if (Status status = spoil(stream_of(stream))) return told(status);
    synchronise(stream_of(stream));
    return told(error());
}
EXPORT int cudaStreamQuery(void *handle) {
    Held held(lock);
    Stream *stream = stream_of(handle);
    if (Status status = spoil(stream)) return told(status);
    return is_done({stream, stream->given}) ? told(error()) : NOT_READY;
}
EXPORT int cudaLaunchHostFunc(void *stream, void (*function)(void *), void *data) {
    Held held(lock);
    give(stream_of(stream), [=] { function(data); });
    return told(error());
}
EXPORT int cudaStreamAddCallback(void *stream, void (*function)(void *, int, void *), void *data, unsigned) {
    Held held(lock);
    give(stream_of(stream), [=] { function(stream, OK, data); });
    return told(error());
}

EXPORT int cudaEventCreateWithFlags(Event **event, unsigned) {
    Held held(lock);
    events.insert(*event = new Event);
    return told(error());
}
EXPORT int cudaEventCreate(Event **event) { return cudaEventCreateWithFlags(event, 0); }
EXPORT int cudaEventDestroy(Event *event) {
    Held held(lock);
    events.erase(event);  // what waits for it knows the position; the object is small and stays
    return OK;
}
EXPORT int cudaEventRecord(Event *event, void *handle) {
    Held held(lock);
    if (!events.count(event)) return told(INVALID_HANDLE);
    Stream *stream = stream_of(handle);
    event->captured = bool(stream->capture);
    if (event->captured) return OK;  // one stream is captured at a time, so nothing else can wait for it
    event->recorded = {stream, stream->given + 1};
    give(stream, [event] { event->seconds = now(); });
    return told(error());
}
EXPORT int cudaEventSynchronize(Event *event) {
    Held held(lock);
    if (event->captured) return told(CAPTURED_EVENT);
    counts.synchronisations++;
    run_until(event->recorded);
    return told(error());
}
EXPORT int cudaEventQuery(Event *event) {
    Held held(lock);
    if (event->captured) return told(CAPTURED_EVENT);
    return is_done(event->recorded) ? told(error()) : NOT_READY;
}
EXPORT int cudaEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    Held held(lock);
    for (Event *event : {start, end})
        if (event->recorded.first && event->recorded.first->done < event->recorded.second) return NOT_READY;
    *milliseconds = static_cast<float>(1e3 * (end->seconds - start->seconds));
    return OK;
}
EXPORT int cudaStreamWaitEvent(void *stream, Event *event, unsigned) {
    Held held(lock);
    if (!events.count(event)) return told(INVALID_HANDLE);
    if (stream_of(stream)->capture) {
        if (event->captured) return OK;
        spoil(stream_of(stream));
        return told(CAPTURE_ISOLATION);
    }
    if (event->captured) return told(NOT_SUPPORTED);  // CUDA would make the stream a part of the graph
    give(stream_of(stream), [] {}, {event->recorded});
    return told(error());
}

EXPORT int emu_not_emulated() { return told(NOT_SUPPORTED); }
