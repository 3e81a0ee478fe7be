// Devices, streams, errors and the tests' controls. Work is put off as long as synchronisation allows, and then runs in
// an order that a seed chooses.
#include "engine.h"

#include <algorithm>
#include <cstdio>
#include <set>

namespace emu {

std::recursive_mutex lock;
Counts counts{};
std::mt19937_64 random{0};

namespace {

constexpr size_t PUT_OFF_AT_MOST = 2000;  // operations in a stream

thread_local int device_of_thread = 0;
Stream default_streams[DEVICES];
std::set<Stream *> streams;

Status sticky = OK;
std::string failure;                                                 // why
int64_t allocations_left = -1, launches_left = -1, calls_left = -1;  // until one fails, as ordered; -1: none does

bool runs_out(int64_t &left) { return left >= 0 && left-- == 0; }

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
        {CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported", "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
         "operation not permitted when stream is capturing"},
        {CAPTURE_INVALIDATED, "cudaErrorStreamCaptureInvalidated", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
         "operation failed due to a previous error during capture"},
        {CAPTURE_ISOLATION, "cudaErrorStreamCaptureIsolation", "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
         "dependency created on uncaptured work in another stream"},
        {CAPTURED_EVENT, "cudaErrorCapturedEvent", "CUDA_ERROR_CAPTURED_EVENT",
         "operation not permitted on an event last recorded in a capturing stream"},
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
    if (runs_out(calls_left)) fail(DEVICE_UNAVAILABLE, "the device was taken away, as ordered");
    return sticky;
}

bool allocation_fails() { return runs_out(allocations_left); }
bool launch_fails() { return runs_out(launches_left); }

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
    if (stream->capture) {
        stream->capture->operations.push_back(std::move(run));
        return;
    }
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

Status spoil(Stream *stream) {
    if (!stream->capture) return OK;
    stream->capture->spoilt = true;
    return CAPTURE_UNSUPPORTED;
}

Status spoil_all() {
    Status found = OK;
    for (Stream *stream : streams)
        if (stream->device == device_of_thread && spoil(stream) != OK) found = CAPTURE_UNSUPPORTED;
    return found;
}

bool is_done(Position position) {
    auto [stream, until] = position;
    if (!stream || stream->done >= until) return true;
    if (chance() < 0.5) run_until({stream, stream->done + 1});
    return stream->done >= until;
}

}  // namespace emu

// -- The tests' controls ---------------------------------------------------------------------------------------------

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
    allocations_left = allocation;
    launches_left = launch;
    calls_left = any;
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
