// γ · V softmax(QᵀK)ᵀ + residual: what the launcher takes. For host compilers too.
#pragma once

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

// Enqueues out = γ · V softmax(QᵀK)ᵀ + residual on the stream, and returns at once. Allocates nothing.
template <typename T>
Status launch_self_attention(const SelfAttentionArguments<T>& arguments, cudaStream_t stream);

}  // namespace fer_edge
