// The TensorRT plugin on emulated kernels, with every call of TensorRT written to the file $FER_EDGE_TEST_CALLS, and
// the fault that $FER_EDGE_TEST_FAULT names. For engines that are built where nothing can execute them.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#define getCreators plugin_creators
#define setLoggerFinder plugin_logger_finder
#include "plugin/self_attention_plugin.cpp"
#undef getCreators
#undef setLoggerFinder
#include "self_attention.cuh"

namespace {

using namespace nvinfer1;

bool fault(const char* name) {
  const char* const chosen = std::getenv("FER_EDGE_TEST_FAULT");
  return chosen && std::string(chosen) == name;
}

__attribute__((format(printf, 1, 2))) void record(const char* format, ...) {
  const char* const path = std::getenv("FER_EDGE_TEST_CALLS");
  std::FILE* const file = path ? std::fopen(path, "a") : nullptr;
  if (!file) return;
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(file, format, arguments);
  va_end(arguments);
  std::fclose(file);
}

long long first(const Dims& dims) { return static_cast<long long>(dims.d[0]); }

// Has a plugin of its own, and passes every call on.
class Recorder final : public IPluginV3, public IPluginV3OneCore, public IPluginV3OneBuild, public IPluginV3OneRuntime {
 public:
  explicit Recorder(IPluginV3* plugin) : plugin_(plugin) {}

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    if (type == PluginCapabilityType::kCORE) return static_cast<IPluginV3OneCore*>(this);
    if (type == PluginCapabilityType::kBUILD) return static_cast<IPluginV3OneBuild*>(this);
    return static_cast<IPluginV3OneRuntime*>(this);
  }
  IPluginV3* clone() noexcept override {
    record("clone\n");
    return new Recorder(plugin_->clone());
  }
  const char* getPluginName() const noexcept override { return core().getPluginName(); }
  const char* getPluginVersion() const noexcept override { return core().getPluginVersion(); }
  const char* getPluginNamespace() const noexcept override { return core().getPluginNamespace(); }

  int32_t getNbOutputs() const noexcept override { return build().getNbOutputs(); }
  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                             int32_t input_count) const noexcept override {
    std::string types;
    for (int32_t i = 0; i < input_count; ++i) types += " " + std::to_string(static_cast<int>(inputs[i]));
    record("getOutputDataTypes%s\n", types.c_str());
    return build().getOutputDataTypes(outputs, output_count, inputs, input_count);
  }
  int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs* shapes, int32_t shape_count,
                          DimsExprs* outputs, int32_t output_count, IExprBuilder& builder) noexcept override {
    record("getOutputShapes\n");
    return build().getOutputShapes(inputs, input_count, shapes, shape_count, outputs, output_count, builder);
  }
  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t input_count,
                                 int32_t output_count) noexcept override {
    record("supportsFormatCombination\n");
    return !fault("formats") && build().supportsFormatCombination(position, tensors, input_count, output_count);
  }
  int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const DynamicPluginTensorDesc* outputs, int32_t output_count) noexcept override {
    const DynamicPluginTensorDesc& residual = inputs[3];
    record("configurePlugin %lld/%lld/%lld\n", first(residual.min), first(residual.opt), first(residual.max));
    return build().configurePlugin(inputs, input_count, outputs, output_count);
  }
  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t input_count,
                          const DynamicPluginTensorDesc* outputs, int32_t output_count) const noexcept override {
    const size_t size = build().getWorkspaceSize(inputs, input_count, outputs, output_count);
    record("getWorkspaceSize %lld %zu\n", first(inputs[3].max), size);
    return fault("workspace") ? size_t{1} << 50 : size;
  }
  const char* getTimingCacheID() noexcept override {
    record("getTimingCacheID\n");
    return build().getTimingCacheID();
  }

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t input_count, const PluginTensorDesc* outputs,
                        int32_t output_count) noexcept override {
    record("onShapeChange\n");
    return runtime().onShapeChange(inputs, input_count, outputs, output_count);
  }
  int32_t enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc* output_descriptions,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override {
    record("enqueue\n");
    return runtime().enqueue(input_descriptions, output_descriptions, inputs, outputs, workspace, stream);
  }
  IPluginV3* attachToContext(IPluginResourceContext* context) noexcept override {
    record("attachToContext\n");
    return new Recorder(runtime().attachToContext(context));
  }
  const PluginFieldCollection* getFieldsToSerialize() noexcept override {
    record("getFieldsToSerialize\n");
    return runtime().getFieldsToSerialize();
  }

 private:
  template <typename Interface>
  Interface& capability(PluginCapabilityType type) const {
    return static_cast<Interface&>(*plugin_->getCapabilityInterface(type));
  }
  IPluginV3OneCore& core() const { return capability<IPluginV3OneCore>(PluginCapabilityType::kCORE); }
  IPluginV3OneBuild& build() const { return capability<IPluginV3OneBuild>(PluginCapabilityType::kBUILD); }
  IPluginV3OneRuntime& runtime() const { return capability<IPluginV3OneRuntime>(PluginCapabilityType::kRUNTIME); }

  const std::unique_ptr<IPluginV3> plugin_;
};

class RecorderCreator final : public IPluginCreatorV3One {
 public:
  const char* getPluginName() const noexcept override { return creator().getPluginName(); }
  const char* getPluginVersion() const noexcept override { return fault("version") ? "2" : creator().getPluginVersion(); }
  const char* getPluginNamespace() const noexcept override { return creator().getPluginNamespace(); }
  const PluginFieldCollection* getFieldNames() noexcept override { return creator().getFieldNames(); }
  IPluginV3* createPlugin(const char* name, const PluginFieldCollection* fields, TensorRTPhase phase) noexcept override {
    record("createPlugin %d\n", static_cast<int>(phase));
    IPluginV3* const plugin = creator().createPlugin(name, fields, phase);
    return plugin ? new Recorder(plugin) : nullptr;
  }

 private:
  static IPluginCreatorV3One& creator() {
    int32_t count = 0;
    return static_cast<IPluginCreatorV3One&>(*plugin_creators(count)[0]);
  }
};

RecorderCreator recorder_creator;

}  // namespace

FER_EDGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  record("setLoggerFinder\n");
  plugin_logger_finder(finder);
}

FER_EDGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&recorder_creator};
  count = 1;
  return creators;
}
