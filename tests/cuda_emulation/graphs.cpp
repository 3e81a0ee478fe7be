// Graphs, a part of the runtime interface: what a stream was given while it was captured, to be launched as one.
#include "engine.h"

using namespace emu;
using Held = std::lock_guard<std::recursive_mutex>;

namespace {

using Graph = std::shared_ptr<Capture>;

}  // namespace

EXPORT int cudaStreamBeginCapture(void *handle, int) {
    Held held(lock);
    if (reinterpret_cast<uintptr_t>(handle) <= 1) return CAPTURE_UNSUPPORTED;  // the legacy default stream
    Stream *stream = stream_of(handle);
    if (stream->capture || stream->blocking) return NOT_SUPPORTED;  // CUDA refuses the first, and much during the second
    stream->capture = std::make_shared<Capture>();
    return error();
}
EXPORT int cudaStreamEndCapture(void *handle, Graph **graph) {
    Held held(lock);
    Stream *stream = stream_of(handle);
    *graph = nullptr;
    if (!stream->capture) return INVALID_VALUE;
    Graph found = std::move(stream->capture);
    stream->capture = nullptr;
    if (found->spoilt) return CAPTURE_INVALIDATED;
    *graph = new Graph(found);
    return error();
}
EXPORT int cudaStreamIsCapturing(void *handle, int *status) {
    Held held(lock);
    Stream *stream = stream_of(handle);
    *status = !stream->capture ? 0 : stream->capture->spoilt ? 2 : 1;
    return OK;
}
EXPORT int cudaGraphInstantiate(Graph **executable, Graph *graph, unsigned long long) {
    *executable = new Graph(*graph);
    return OK;
}
EXPORT int cudaGraphUpload(Graph *, void *) { return OK; }
EXPORT int cudaGraphLaunch(Graph *executable, void *handle) {
    Held held(lock);
    if (Status status = error()) return status;
    counts.graphs++;
    if (launch_fails()) return LAUNCH_OUT_OF_RESOURCES;
    Stream *stream = stream_of(handle);
    give(stream, [graph = *executable] {
        for (const auto &run : graph->operations) run();
    });
    return error();
}
EXPORT int cudaGraphExecDestroy(Graph *executable) {
    delete executable;  // launches that are put off have it still
    return OK;
}
EXPORT int cudaGraphDestroy(Graph *graph) {
    delete graph;
    return OK;
}
