// The driver interface: modules of kernels, and their launch. CuPy looks its functions up by name in libcuda.so.1.
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <unistd.h>
#include <utime.h>

#include "engine.h"

using namespace emu;
using Held = std::lock_guard<std::recursive_mutex>;

namespace {

struct Function {
    std::string name;
    const Kernel *kernel;
};

struct Module {
    void *library;
    std::map<std::string, Function> functions;
};

}  // namespace

EXPORT int cuInit(unsigned) { return OK; }
EXPORT int cuDriverGetVersion(int *version) {
    *version = CUDA_MAJOR * 1000;
    return OK;
}
EXPORT int cuGetErrorName(int status, const char **name) {
    *name = words_for(status).driver;
    return OK;
}
EXPORT int cuGetErrorString(int status, const char **text) {
    *text = words_for(status).text;
    return OK;
}

// A context is a device's number plus one.
EXPORT int cuCtxGetCurrent(void **context) {
    *context = reinterpret_cast<void *>(current_device() + 1L);
    return OK;
}
EXPORT int cuCtxSetCurrent(void *context) {
    return context ? set_device(static_cast<int>(reinterpret_cast<intptr_t>(context)) - 1) : OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = reinterpret_cast<void *>(device + 1L);
    return OK;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
EXPORT int cuCtxGetDevice(int *device) {
    *device = current_device();
    return OK;
}
EXPORT int cuStreamGetCtx(void *stream, void **context) {
    *context = reinterpret_cast<void *>(stream_of(stream)->device + 1L);
    return OK;
}

// A module is a host library behind its size and its source's number; nvrtc.cpp made it.
EXPORT int cuModuleLoadData(Module **module, const char *image) {
    Held held(lock);
    if (Status status = error()) return status;
    if (memcmp(image, "EMULATED", 8)) return INVALID_VALUE;
    uint64_t about[2], &size = about[0];
    memcpy(about, image + 8, sizeof about);
    // The source's time of change says when it was last used: CuPy keeps what was compiled.
    utime((std::string(getenv("XPCNN_CUDA_KERNELS")) + "/sources/" + std::to_string(about[1]) + ".cu").c_str(), nullptr);
    // A name of its own for each: the loader takes a second library of the same name for the first.
    char path[] = "/tmp/xpcnn-module-XXXXXX";
    int file = mkstemp(path);
    if (file < 0 || write(file, image + 8 + sizeof about, size) != static_cast<ssize_t>(size)) return OUT_OF_MEMORY;
    close(file);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    unlink(path);
    if (!library) {
        fprintf(stderr, "emulated CUDA: %s\n", dlerror());
        return INVALID_VALUE;
    }
    add_module_memory(dlsym(library, "emu_module"));
    *module = new Module{library, {}};
    return OK;
}
EXPORT int cuModuleUnload(Module *) { return OK; }  // work that was put off may still need it
EXPORT int cuModuleGetFunction(Function **function, Module *module, const char *name) {
    Held held(lock);
    void *found = dlsym(module->library, (std::string("emu_kernel_") + name).c_str());
    if (!found) return NOT_FOUND;
    *function = &(module->functions[name] = Function{name, static_cast<const Kernel *>(found)});
    return OK;
}
EXPORT int cuModuleGetGlobal_v2(void **pointer, size_t *size, Module *module, const char *name) {
    *pointer = dlsym(module->library, name);
    return *pointer ? OK : NOT_FOUND;
}
EXPORT int cuFuncGetAttribute(int *value, int number, Function *) {
    *value = number == 0 ? 1024 : number == 4 ? 32 : 0;  // threads in a block; registers of a thread
    return OK;
}
EXPORT int cuFuncSetAttribute(Function *, int, int) { return OK; }
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Function *, int, size_t) {
    *blocks = 2;
    return OK;
}
EXPORT int cuOccupancyMaxPotentialBlockSize(int *grid, int *block, Function *, void *, size_t, int) {
    *grid = 8;
    *block = 128;
    return OK;
}
EXPORT int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                          unsigned bz, unsigned shared_bytes, void *stream, void **parameters, void **) {
    Held held(lock);
    unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
    return launch(function->name, *function->kernel, grid, block, shared_bytes, stream_of(stream), parameters);
}
