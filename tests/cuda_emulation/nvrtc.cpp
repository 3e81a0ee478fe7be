// The run-time compiler: kernels are compiled by the host's C++ compiler, with include/device.h before them.
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <spawn.h>
#include <sstream>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

extern char **environ;

namespace fs = std::filesystem;

namespace {

constexpr int OK = 0, INVALID_INPUT = 3, INVALID_PROGRAM = 4, COMPILATION = 6;

struct Program {
    std::string source, log, image;
    std::vector<std::string> expressions;
};

std::string read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

int run(const std::vector<std::string> &command, const std::string &log) {
    std::vector<char *> words;
    for (const std::string &word : command) words.push_back(const_cast<char *>(word.c_str()));
    words.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 2, log.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    pid_t child;
    int status = posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (status) return status;
    waitpid(child, &status, 0);
    return status;
}

// Kernels are functions with C linkage; templates are asked for by name expressions.
std::set<std::string> kernels(const std::string &source) {
    static const std::regex kernel(
        R"(extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\()");
    std::set<std::string> found;
    for (std::sregex_iterator match(source.begin(), source.end(), kernel), end; match != end; ++match)
        found.insert((*match)[1]);
    return found;
}

// Keeps a source with its options, for scripts/compile_kernels.py to show to NVIDIA's compiler. Returns its number, by
// which driver.cpp marks it as used.
uint64_t keep(const fs::path &folder, const Program &program, int count, const char *const *options) {
    std::string text;
    for (int i = 0; i < count; i++) text += "// option " + std::string(options[i]) + "\n";
    for (const std::string &expression : program.expressions) text += "// expression " + expression + "\n";
    text += program.source;
    fs::create_directories(folder);
    uint64_t number = std::hash<std::string>()(text);
    std::ofstream(folder / (std::to_string(number) + ".cu")) << text;
    return number;
}

}  // namespace

EXPORT int nvrtcVersion(int *major, int *minor) {
    *major = CUDA_MAJOR;
    *minor = 9;
    return OK;
}
EXPORT const char *nvrtcGetErrorString(int status) {
    return status == COMPILATION ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR";
}
EXPORT int nvrtcGetNumSupportedArchs(int *count) {
    *count = 1;
    return OK;
}
EXPORT int nvrtcGetSupportedArchs(int *archs) {
    *archs = 90;
    return OK;
}

EXPORT int nvrtcCreateProgram(Program **program, const char *source, const char *, int, const char *const *,
                              const char *const *) {
    *program = new Program{source, "", "", {}};
    return OK;
}
EXPORT int nvrtcDestroyProgram(Program **program) {
    delete *program;
    *program = nullptr;
    return OK;
}
EXPORT int nvrtcAddNameExpression(Program *program, const char *expression) {
    program->expressions.push_back(expression);
    return OK;
}
EXPORT int nvrtcGetLoweredName(Program *program, const char *expression, const char **name) {
    static std::set<std::string> names;
    for (size_t i = 0; i < program->expressions.size(); i++)
        if (program->expressions[i] == expression) {
            *name = names.insert("expression" + std::to_string(i)).first->c_str();
            return OK;
        }
    return INVALID_INPUT;
}

EXPORT int nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    const std::string &source = program->source;
    if (kernels(source).empty() && program->expressions.empty()) {
        program->image = "// emulated\n";  // CuPy compiles nothing to learn the compiler's version from the comments
        return OK;
    }
    const fs::path home = getenv("XPCNN_CUDA_KERNELS");
    uint64_t number = keep(home / "sources", *program, count, options);
    char name[] = "/tmp/xpcnn-kernel-XXXXXX";
    if (!mkdtemp(name)) return INVALID_PROGRAM;
    const fs::path folder = name;
    static const std::regex waits(R"(__syncthreads|__syncwarp|__shfl|__ballot|__any_sync|__all_sync)");
    static const std::regex dynamic(R"(extern\s+__shared__\s+([\w\s]+?)\s+(\w+)\s*\[\s*\]\s*;)");
    {
        std::ofstream file(folder / "kernel.cpp");
        file << "#line 1 \"kernel.cu\"\n"
             << std::regex_replace(source, dynamic, "$1 *const $2 = ($1 *)emu::shared;") << "\n";
        const char *waiting = std::regex_search(source, waits) ? ", true" : ", false";
        for (const std::string &kernel : kernels(source))
            file << "EMU_KERNEL(" << kernel << waiting << ", " << kernel << ")\n";
        for (size_t i = 0; i < program->expressions.size(); i++)
            file << "EMU_KERNEL(expression" << i << waiting << ", " << program->expressions[i] << ")\n";
    }
    std::vector<std::string> command{getenv("XPCNN_CUDA_COMPILER")};
    std::istringstream flags(getenv("XPCNN_CUDA_FLAGS"));
    for (std::string flag; flags >> flag;) command.push_back(flag);
    const std::string include = home / "include";
    command.insert(command.end(), {"-shared", "-include", include + "/device.h", "-I" + include});
    for (int i = 0; i < count; i++) {
        std::string option = options[i];
        if (option.rfind("-I", 0) == 0 || option.rfind("-D", 0) == 0) command.push_back(option);
    }
    command.insert(command.end(), {"-o", folder / "kernel.so", folder / "kernel.cpp"});
    int status = run(command, folder / "log");
    program->log = read(folder / "log");
    std::string library = status ? "" : read(folder / "kernel.so");
    fs::remove_all(folder);
    if (status) return COMPILATION;
    uint64_t about[] = {library.size(), number};
    program->image = "EMULATED" + std::string(reinterpret_cast<char *>(about), sizeof about) + library;
    return OK;
}

EXPORT int nvrtcGetProgramLogSize(Program *program, size_t *size) {
    *size = program->log.size() + 1;
    return OK;
}
EXPORT int nvrtcGetProgramLog(Program *program, char *log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return OK;
}
EXPORT int nvrtcGetCUBINSize(Program *program, size_t *size) {
    *size = program->image.size();
    return OK;
}
EXPORT int nvrtcGetCUBIN(Program *program, char *image) {
    memcpy(image, program->image.data(), program->image.size());
    return OK;
}
EXPORT int nvrtcGetPTXSize(Program *program, size_t *size) { return nvrtcGetCUBINSize(program, size); }
EXPORT int nvrtcGetPTX(Program *program, char *image) { return nvrtcGetCUBIN(program, image); }
