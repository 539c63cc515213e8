// TensorRT's plugin fer_edge::SelfAttention, version 1, around the kernel. One source for TensorRT 10.3 to 11 and RTX.
//
// Inputs are those of the ONNX operator (export/networks/attention_op.py): query, key [B, C/8, N], value, residual
// [B, C, N], gamma with one element. Outputs: out [B, C, N], and if the field `received` is 1, received [B, N].
// All single or all half precision, linear. Nothing throws; errors are reported to TensorRT's logger.
#include <NvInferRuntime.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>

#include "../self_attention.hpp"
#ifndef FER_EDGE_EMULATION
#include <cuda_fp16.h>
#endif

namespace fer_edge {
namespace {

using namespace nvinfer1;

constexpr const char* kName = "SelfAttention";
constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "fer_edge";
constexpr const char* kReceived = "received";

enum Input { kQuery, kKey, kValue, kResidual, kGamma, kInputs };
enum Output { kOut, kReceivedOut };

// Return codes: TensorRT takes 0 for success.
constexpr int32_t kDone = 0, kRefused = 1;

// TensorRT gives the finder when it loads the library; the logger is that of the calling thread, found at each report.
class Log {
 public:
  void set_finder(ILoggerFinder* finder) noexcept { finder_ = finder; }

  // Returns kRefused, for the caller to return.
  int32_t refuse(const Status& status) const noexcept {
    char line[sizeof status.message + 64];
    std::snprintf(line, sizeof line, "%s::%s: %s", kNamespace, kName, status.message);
    ILogger* const logger = finder_ ? finder_->findLogger() : nullptr;
    if (logger)
      logger->log(ILogger::Severity::kERROR, line);
    else
      std::fprintf(stderr, "%s\n", line);
    return kRefused;
  }

 private:
  ILoggerFinder* finder_ = nullptr;
};

int to_int(int64_t extent) { return static_cast<int>(std::clamp<int64_t>(extent, -1, INT_MAX)); }

// Whether these are the inputs of one attention that the kernel takes; dims_of(input) gives concrete sizes.
template <typename DimsOf>
Status check_shapes(DimsOf dims_of) {
  static constexpr const char* kNames[] = {"query", "key", "value", "residual"};
  for (int input = kQuery; input <= kResidual; ++input)
    if (dims_of(input).nbDims != 3)
      return failed(StatusCode::kBadShape, "%s must have 3 dimensions, found %d", kNames[input], dims_of(input).nbDims);
  const Dims residual = dims_of(kResidual);
  const int64_t batch = residual.d[0], channels = residual.d[1], positions = residual.d[2];
  const Status status = check_self_attention_shape(to_int(batch), to_int(channels), to_int(positions));
  if (!status.ok()) return status;
  for (int input = kQuery; input <= kValue; ++input) {
    const Dims dims = dims_of(input);
    const int64_t rows = input == kValue ? channels : channels / 8;
    if (dims.d[0] != batch || dims.d[1] != rows || dims.d[2] != positions)
      return failed(StatusCode::kBadShape, "%s must be [%d, %d, %d] like the residual, found [%d, %d, %d]", kNames[input],
                    to_int(batch), to_int(rows), to_int(positions), to_int(dims.d[0]), to_int(dims.d[1]),
                    to_int(dims.d[2]));
  }
  const Dims gamma = dims_of(kGamma);
  if (gamma.nbDims > 1 || (gamma.nbDims == 1 && gamma.d[0] != 1))
    return failed(StatusCode::kBadShape, "gamma must have one element");
  return {};
}

class Plugin final : public IPluginV3,
                     public IPluginV3OneCore,
                     public IPluginV3OneBuild,
                     public IPluginV3OneRuntime {
 public:
  Plugin(const Log& log, bool received) noexcept : log_(log), received_(received) {}

  // ---- IPluginV3

  IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  IPluginV3* clone() noexcept override { return new (std::nothrow) Plugin(log_, received_ != 0); }

  // ---- IPluginV3OneCore

  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // ---- IPluginV3OneBuild

  int32_t getNbOutputs() const noexcept override { return 1 + received_; }

  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                             int32_t input_count) const noexcept override {
    if (input_count != kInputs || output_count != getNbOutputs())
      return log_.refuse(failed(StatusCode::kBadShape, "expected %d inputs and %d outputs, found %d and %d", kInputs,
                                getNbOutputs(), input_count, output_count));
    for (int input = 0; input < kInputs; ++input)
      if (!is_supported(inputs[input]) || inputs[input] != inputs[0])
        return log_.refuse(failed(StatusCode::kBadShape,
                                  "all inputs must be float or all half, found type %d as input %d and type %d as input 0",
                                  static_cast<int>(inputs[input]), input, static_cast<int>(inputs[0])));
    std::fill(outputs, outputs + output_count, inputs[0]);
    return kDone;
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t input_count, const DimsExprs*, int32_t,
                          DimsExprs* outputs, int32_t, IExprBuilder&) noexcept override {
    if (input_count != kInputs || inputs[kResidual].nbDims != 3)
      return log_.refuse(failed(StatusCode::kBadShape, "expected %d inputs and a residual of 3 dimensions", kInputs));
    const DimsExprs& residual = inputs[kResidual];
    outputs[kOut] = residual;
    if (received_) {
      outputs[kReceivedOut].nbDims = 2;
      outputs[kReceivedOut].d[0] = residual.d[0];
      outputs[kReceivedOut].d[1] = residual.d[2];
    }
    return kDone;
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t,
                                 int32_t) noexcept override {
    const PluginTensorDesc& tensor = tensors[position].desc;
    return tensor.format == TensorFormat::kLINEAR && is_supported(tensor.type) && tensor.type == tensors[0].desc.type;
  }

  int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) noexcept override {
    for (Dims DynamicPluginTensorDesc::*const extreme : {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::max}) {
      const Status status = check_shapes([&](int input) { return inputs[input].*extreme; });
      if (!status.ok()) return log_.refuse(status);
    }
    return kDone;
  }

  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) const noexcept override {
    const Dims& largest = inputs[kResidual].max;
    return received_ ? row_statistics_bytes(to_int(largest.d[0]), to_int(largest.d[2])) : 0;
  }

  const char* getTimingCacheID() noexcept override { return received_ ? kReceived : ""; }

  // ---- IPluginV3OneRuntime

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t, const PluginTensorDesc*, int32_t) noexcept override {
    const Status status = check_shapes([&](int input) { return inputs[input].dims; });
    return status.ok() ? kDone : log_.refuse(status);
  }

  int32_t enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc*, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    const Dims& shape = input_descriptions[kResidual].dims;
    const Status status = input_descriptions[kResidual].type == DataType::kHALF
                              ? launch_on<__half>(shape, inputs, outputs, workspace, stream)
                              : launch_on<float>(shape, inputs, outputs, workspace, stream);
    return status.ok() ? kDone : log_.refuse(status);
  }

  IPluginV3* attachToContext(IPluginResourceContext*) noexcept override { return clone(); }

  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &fields_; }

 private:
  static bool is_supported(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

  template <typename T>
  Status launch_on(const Dims& shape, const void* const* inputs, void* const* outputs, void* workspace,
                   cudaStream_t stream) const {
    const auto input = [&](Input index) { return static_cast<const T*>(inputs[index]); };
    SelfAttentionArguments<T> arguments{};
    arguments.query = input(kQuery);
    arguments.key = input(kKey);
    arguments.value = input(kValue);
    arguments.residual = input(kResidual);
    arguments.gamma = input(kGamma);
    arguments.out = static_cast<T*>(outputs[kOut]);
    if (received_) {
      arguments.received = static_cast<T*>(outputs[kReceivedOut]);
      arguments.row_statistics = static_cast<float*>(workspace);
    }
    arguments.batch = to_int(shape.d[0]);
    arguments.channels = to_int(shape.d[1]);
    arguments.positions = to_int(shape.d[2]);
    return launch_self_attention(arguments, stream);
  }

  const Log& log_;
  const int32_t received_;
  const PluginField field_{kReceived, &received_, PluginFieldType::kINT32, 1};
  const PluginFieldCollection fields_{1, &field_};
};

class Creator final : public IPluginCreatorV3One {
 public:
  const char* getPluginName() const noexcept override { return kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const PluginFieldCollection* getFieldNames() noexcept override { return &fields_; }

  // From the attributes of the node, and from the fields that getFieldsToSerialize() wrote; without the field, one output.
  IPluginV3* createPlugin(const char*, const PluginFieldCollection* fields, TensorRTPhase) noexcept override {
    int32_t received = 0;
    for (int32_t i = 0; fields && i < fields->nbFields; ++i) {
      const PluginField& field = fields->fields[i];
      if (std::strcmp(field.name, kReceived) != 0) continue;
      if (!field.data || field.type != PluginFieldType::kINT32 || field.length != 1)
        return refuse(failed(StatusCode::kBadShape, "the field %s must be one int32", kReceived));
      std::memcpy(&received, field.data, sizeof received);
      if (received != 0 && received != 1)
        return refuse(failed(StatusCode::kBadShape, "the field %s must be 0 or 1, found %d", kReceived, received));
    }
    return new (std::nothrow) Plugin(log, received == 1);
  }

  Log log;

 private:
  IPluginV3* refuse(const Status& status) const noexcept {
    log.refuse(status);
    return nullptr;
  }

  const PluginField field_{kReceived, nullptr, PluginFieldType::kINT32, 1};
  const PluginFieldCollection fields_{1, &field_};
};

Creator creator;

}  // namespace
}  // namespace fer_edge

#define FER_EDGE_EXPORT extern "C" __attribute__((visibility("default")))

// Symbols that TensorRT looks up when it loads the library.
FER_EDGE_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) { fer_edge::creator.log.set_finder(finder); }

FER_EDGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&fer_edge::creator};
  count = 1;
  return creators;
}
