// γ · V softmax(QᵀK)ᵀ + residual: arguments of the launcher. For host compilers too.
#pragma once

#include <climits>
#include <cstddef>

#include "status.hpp"
#include "stream.hpp"

namespace fer_edge {

template <typename T>
struct SelfAttentionArguments {
  const T* query;          // [batch, channels / 8, positions]
  const T* key;            // [batch, channels / 8, positions]
  const T* value;          // [batch, channels, positions]
  const T* residual;       // [batch, channels, positions]
  const T* gamma;          // scalar on the device
  T* out;                  // [batch, channels, positions]
  T* received;             // [batch, positions], or null: mean over i of the weight that i gives to j
  float* row_statistics;   // [batch, 2, positions] of working memory, if received is asked for
  int batch;
  int channels;
  int positions;
};

// Bytes of row_statistics that `received` needs; 0 for an empty batch.
inline size_t row_statistics_bytes(int batch, int positions) {
  return batch > 0 && positions > 0 ? sizeof(float) * 2 * static_cast<size_t>(batch) * static_cast<size_t>(positions) : 0;
}

// Whether the kernels take these sizes.
inline Status check_self_attention_shape(int batch, int channels, int positions) {
  if (batch < 0 || batch > 65535) return failed(StatusCode::kBadShape, "batch must be 0 to 65535, found %d", batch);
  if (channels < 8 || channels > 512 || channels % 8)
    return failed(StatusCode::kBadShape, "channels must be a multiple of 8 from 8 to 512, found %d", channels);
  if (positions < 0 || positions > INT_MAX / 512 - 64)
    return failed(StatusCode::kBadShape, "positions must be 0 to %d, found %d", INT_MAX / 512 - 64, positions);
  return {};
}

// Enqueues out = γ · V softmax(QᵀK)ᵀ + residual on the stream, and returns at once. Allocates nothing.
template <typename T>
Status launch_self_attention(const SelfAttentionArguments<T>& arguments, cudaStream_t stream);

}  // namespace fer_edge
