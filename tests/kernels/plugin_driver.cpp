// The TensorRT plugin, called as TensorRT calls it, on emulated kernels and tensors from a file.
//
//   plugin_driver IN OUT type=half batch=1 channels=8 positions=4 received=0 [NAME=VALUE …]
//
// IN: query, key, value, residual, gamma. OUT: out, then received if received=1. Further names: max_batch, of the
// profile; fault, see main(). What the plugin answers on stdout; exit 4: it refused, and stderr says why.

#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>

#define launch_self_attention recorded_launch  // what the plugin calls; below, the kernel follows it
#include "plugin/self_attention_plugin.cpp"
#undef launch_self_attention
#include "self_attention.cuh"

namespace fer_edge {

cudaStream_t stream_of_launch = nullptr;

template <typename T>
Status recorded_launch(const SelfAttentionArguments<T>& arguments, cudaStream_t stream) {
  stream_of_launch = stream;
  return launch_self_attention(arguments, stream);
}
template Status recorded_launch(const SelfAttentionArguments<float>&, cudaStream_t);
template Status recorded_launch(const SelfAttentionArguments<__half>&, cudaStream_t);

}  // namespace fer_edge

using namespace nvinfer1;

struct Logger : ILogger {
  void log(Severity severity, const char* message) noexcept override {
    std::fprintf(stderr, "[%d] %s\n", static_cast<int>(severity), message);
  }
};
struct Finder : ILoggerFinder {
  Logger logger;
  ILogger* findLogger() override { return &logger; }
};
struct NoBuilder : IExprBuilder {};

template <typename Interface>
Interface& capability(IPluginV3& plugin, PluginCapabilityType type) {
  return static_cast<Interface&>(*plugin.getCapabilityInterface(type));
}

void require(bool accepted) {
  if (!accepted) std::exit(4);
}

Dims dims(std::initializer_list<std::int64_t> extents) {
  Dims result{};
  for (const std::int64_t extent : extents) result.d[result.nbDims++] = extent;
  return result;
}

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::map<std::string, std::string> options;
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    options[text.substr(0, text.find('='))] = text.substr(text.find('=') + 1);
  }
  const auto number = [&](const char* name) { return std::atoll(options[name].c_str()); };
  const std::string fault = options["fault"];
  const std::int64_t batch = number("batch"), channels = number("channels"), positions = number("positions");
  const std::int64_t max_batch = options.count("max_batch") ? number("max_batch") : batch;
  const auto outputs = static_cast<int>(1 + number("received"));
  const DataType type = options["type"] == "half" ? DataType::kHALF : DataType::kFLOAT;
  const std::size_t bytes = type == DataType::kHALF ? 2 : 4;

  // ---- the library, as the registry sees it
  Finder finder;
  if (fault != "no_finder") setLoggerFinder(&finder);
  std::int32_t count = 0;
  auto& creator = static_cast<IPluginCreatorV3One&>(*getCreators(count)[0]);
  std::printf("creators %d %s %s %s %s\n", count, creator.getInterfaceInfo().kind, creator.getPluginNamespace(),
              creator.getPluginName(), creator.getPluginVersion());
  const PluginFieldCollection& names = *creator.getFieldNames();
  std::printf("fields");
  for (int i = 0; i < names.nbFields; ++i) std::printf(" %s", names.fields[i].name);
  std::printf("\n");

  // ---- build
  const auto received = static_cast<std::int32_t>(fault == "field_value" ? 2 : outputs - 1);
  const PluginField known{"received", &received, fault == "field_type" ? PluginFieldType::kFLOAT32 : PluginFieldType::kINT32,
                          fault == "field_length" ? 2 : 1};
  const PluginField fields[] = {{"another", &received, PluginFieldType::kINT32, 1}, known};
  const PluginFieldCollection attributes{fault == "no_field" ? 1 : 2, fields};
  const std::unique_ptr<IPluginV3> original(creator.createPlugin("attention", &attributes, TensorRTPhase::kBUILD));
  require(original != nullptr);
  const std::unique_ptr<IPluginV3> built(original->clone());
  auto& core = capability<IPluginV3OneCore>(*built, PluginCapabilityType::kCORE);
  auto& build = capability<IPluginV3OneBuild>(*built, PluginCapabilityType::kBUILD);
  std::printf("plugin %s %s %s\n", core.getPluginNamespace(), core.getPluginName(), core.getPluginVersion());
  std::printf("outputs %d\n", build.getNbOutputs());

  DataType input_types[] = {type, type, type, type, type}, output_types[2] = {};
  if (fault == "mixed_types") input_types[2] = type == DataType::kHALF ? DataType::kFLOAT : DataType::kHALF;
  if (fault == "integers") std::fill_n(input_types, 5, DataType::kINT8);
  require(build.getOutputDataTypes(output_types, outputs, input_types, fault == "four_inputs" ? 4 : 5) == 0);
  std::printf("types");
  for (int i = 0; i < outputs; ++i) std::printf(" %d", static_cast<int>(output_types[i]));
  std::printf("\n");

  alignas(std::max_align_t) static unsigned char symbols[3][16];  // B, C, N: only their addresses count
  const auto symbol = [&](int i) { return reinterpret_cast<const IDimensionExpr*>(symbols[i]); };
  DimsExprs input_shapes[5] = {}, output_shapes[2] = {};
  input_shapes[3].nbDims = fault == "flat_residual" ? 4 : 3;
  for (int i = 0; i < 3; ++i) input_shapes[3].d[i] = symbol(i);
  NoBuilder builder;
  require(build.getOutputShapes(input_shapes, 5, nullptr, 0, output_shapes, outputs, builder) == 0);
  for (int i = 0; i < outputs; ++i) {
    std::printf("shape %d", i);
    for (int axis = 0; axis < output_shapes[i].nbDims; ++axis)
      for (int s = 0; s < 3; ++s)
        if (output_shapes[i].d[axis] == symbol(s)) std::printf(" %c", "BCN"[s]);
    std::printf("\n");
  }

  const auto shapes_at = [&](std::int64_t b) {
    std::array<Dims, 7> shapes{dims({b, channels / 8, positions}), dims({b, channels / 8, positions}),
                               dims({b, channels, positions}),     dims({b, channels, positions}),
                               dims({}),                           dims({b, channels, positions}),
                               dims({b, positions})};
    if (fault == "key_rows") ++shapes[1].d[1];
    if (fault == "value_positions") ++shapes[2].d[2];
    if (fault == "flat_query") shapes[0].nbDims = 2;
    if (fault == "gamma_per_channel") shapes[4] = dims({channels});
    if (fault == "gamma_one") shapes[4] = dims({1});
    return shapes;
  };
  DynamicPluginTensorDesc tensors[7] = {};
  for (int i = 0; i < 5 + outputs; ++i) {
    tensors[i] = {{shapes_at(-1)[static_cast<std::size_t>(i)], type, TensorFormat::kLINEAR, 1.0f},
                  shapes_at(1)[static_cast<std::size_t>(i)],
                  shapes_at(max_batch)[static_cast<std::size_t>(i)],
                  shapes_at(batch)[static_cast<std::size_t>(i)]};
  }
  // Which types and formats each tensor may have, given the first.
  const DataType all_types[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8, DataType::kINT32, DataType::kBF16};
  const TensorFormat all_formats[] = {TensorFormat::kLINEAR, TensorFormat::kCHW2, TensorFormat::kHWC8, TensorFormat::kCHW32};
  for (int i = 0; i < 5 + outputs; ++i) {
    std::printf("supported %d", i);
    for (const DataType tried : all_types)
      for (const TensorFormat format : all_formats) {
        DynamicPluginTensorDesc changed[7];
        std::copy(tensors, tensors + 7, changed);
        changed[i].desc.type = tried;
        changed[i].desc.format = format;
        if (build.supportsFormatCombination(i, changed, 5, outputs))
          std::printf(" %d/%d", static_cast<int>(tried), static_cast<int>(format));
      }
    std::printf("\n");
  }
  require(build.configurePlugin(tensors, 5, tensors + 5, outputs) == 0);
  const std::size_t workspace_bytes = build.getWorkspaceSize(tensors, 5, tensors + 5, outputs);
  std::printf("workspace %zu\n", workspace_bytes);

  // ---- what the engine holds, and the plugin that is made of it
  auto& of_build = capability<IPluginV3OneRuntime>(*built, PluginCapabilityType::kRUNTIME);
  const PluginFieldCollection& serialized = *of_build.getFieldsToSerialize();
  std::printf("serialized %d %s %d\n", serialized.nbFields, serialized.fields[0].name,
              *static_cast<const std::int32_t*>(serialized.fields[0].data));
  const std::unique_ptr<IPluginV3> read(creator.createPlugin("attention", &serialized, TensorRTPhase::kRUNTIME));
  require(read != nullptr);
  const std::unique_ptr<IPluginV3> attached(
      capability<IPluginV3OneRuntime>(*read, PluginCapabilityType::kRUNTIME).attachToContext(nullptr));
  auto& runtime = capability<IPluginV3OneRuntime>(*attached, PluginCapabilityType::kRUNTIME);

  std::ifstream file(argv[1], std::ios::binary);
  PluginTensorDesc descriptions[7] = {};
  std::unique_ptr<unsigned char[]> memory[7];  // of exactly their size, so that AddressSanitizer sees an access beyond
  void* pointers[7] = {};
  for (std::size_t i = 0; i < static_cast<std::size_t>(5 + outputs); ++i) {
    descriptions[i] = {shapes_at(batch)[i], type, TensorFormat::kLINEAR, 1.0f};
    std::size_t size = bytes;
    for (int axis = 0; axis < descriptions[i].dims.nbDims; ++axis)
      size *= static_cast<std::size_t>(descriptions[i].dims.d[axis]);
    memory[i].reset(new unsigned char[size]);
    std::memset(memory[i].get(), 0xFF, size);
    pointers[i] = memory[i].get();
    if (i < 5 && !file.read(static_cast<char*>(pointers[i]), static_cast<std::streamsize>(size))) return 2;
  }
  const std::unique_ptr<unsigned char[]> workspace(workspace_bytes ? new unsigned char[workspace_bytes] : nullptr);
  if (fault == "batch_above") descriptions[3].dims.d[0] = descriptions[2].dims.d[0] + 1;
  require(runtime.onShapeChange(descriptions, 5, descriptions + 5, outputs) == 0);
  if (fault == "null_output") pointers[5] = nullptr;
  const auto stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{0x5A});
  const std::int32_t status =
      runtime.enqueue(descriptions, descriptions + 5, pointers, pointers + 5,
                      fault == "no_workspace" ? nullptr : workspace.get(), stream);
  require(status == 0);
  std::printf("on_the_given_stream %d\n", fer_edge::stream_of_launch == stream);
  std::ofstream out(argv[2], std::ios::binary);
  for (int i = 5; i < 5 + outputs; ++i)
    out.write(static_cast<const char*>(pointers[i]),
              static_cast<std::streamsize>(bytes * static_cast<std::size_t>(batch * positions * (i == 5 ? channels : 1))));
  return 0;
}
