// Self-attention of Jalal et al., fused: out = γ · V softmax(QᵀK)ᵀ + residual, softmax over the keys, no scaling.
//
// Q, K [batch, d, N] with d = C / 8; V, residual, out [batch, C, N]; N = H · W. One pass with an online softmax:
// the N × N weights exist only as tiles in registers. Reference: export/networks/attention_op.py.
//
// Tile sizes, derived for halves, N = 784, C = 128 (d = 16), the paper's map on a Jetson Orin:
//
//   Queries per block M = 64. A block reads K and V once, so that L2 delivers 2 · M / sizeof(T) = 64 FLOP per
//     byte: 160 GB/s at the 10.2 TFLOP/s of an Orin Nano. More queries per block would halve that, and leave
//     multiprocessors idle: 64 make 13 blocks, for 8 to 20 multiprocessors, at batch 1.
//   A warp owns 16 queries (the height of mma.m16n8k16) and all their channels, 64 sums per lane: then nothing
//     is computed twice, and a weight goes from the first product to the second without leaving its lane.
//   Keys per tile 64 / sizeof(T) = 32: rows of 64 bytes, two sectors. A stage is (d + C) · 64 bytes = 9 KiB; two
//     stages, and d · 128 bytes of queries: 20 KiB. The residual and the outputs later lie where the stages were.
//     Up to C = 256 two stages fit the 48 KiB that need no opt-in; beyond, there is one, with half the queries.
//   Registers: 64 sums, 16 scores, 8 packed weights, fragments, addresses: 128. Four blocks of 128 threads take
//     all 65,536 registers and 84 of 100 KiB (sm_86, 89, 120): 16 warps, 33 % of 48 or 25 % of 64. That is
//     enough: between two barriers a warp issues 36 mma on 16 independent sums, while the next tile is on its
//     way; more warps would need fewer sums each, and more bytes. sm_75 has 64 KiB: three blocks.
//
// The least bytes, each input once per query tile and each output once, with n = ⌈N / M⌉ query tiles:
//   sizeof(T) · batch · (n · (d + C) · N + d · N + 2 · C · N + n)    keys and values; queries; residual, out; γ
//   = 3,361,818 at this size; 3,365,120 are counted, since every thread reads γ.
// From DRAM, where L2 holds K and V: (2 · d + 3 · C) · N · 2 bytes = 0.65 MB for 2 · N² · (d + C) = 177 MFLOP:
//   271 FLOP per byte, above the 150 of an Orin Nano (68 GB/s): bound by arithmetic.
// Off the tensor cores: one multiplication per weight, and C / 32 where the largest score of a row grew: 2.7 %.
//
// Single precision uses FFMA, with the same bytes per row: half the queries, half the keys. For four keys a lane
// reads C / 8 pieces of 16 bytes and shuffles 16 weights, for 2 · C multiply-adds: about balanced with shared
// memory. More than 128 sums per lane would spill, so two warps share the queries from C = 256 on, four at 512,
// and each computes the scores.
//
// If N is a multiple of 16 / sizeof(T) and every tensor starts at a multiple of 16 bytes, so does every row, and
// memory is accessed 16 bytes at a time. Else loads are of 4 bytes where rows allow it, which cp.async can carry
// too, and of single halves where they do not (N odd, as at 7 × 7); stores are then of elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "device.cuh"
#include "self_attention.hpp"

namespace fer_edge {

// ---------------------------------------------------------------------------------------------------
// Tile sizes
// ---------------------------------------------------------------------------------------------------

// sm_75 has 64 KiB of shared memory per multiprocessor, for three blocks of 20 KiB; the others 100 KiB and more. It
// waits for its loads, and so must load several things at once, where the others have asynchronous copies.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kMostBlocks = 3, kCopiesAtOnce = 4;
#else
constexpr int kMostBlocks = 4, kCopiesAtOnce = 1;
#endif

// Of a block, for up to kChannels channels. A warp owns 16 queries and kChannelsPerWarp channels of their output.
template <typename T, int kChannels_>
struct Tiling {
  static constexpr int kChannels = kChannels_;
  static constexpr int kMostPerWarp = sizeof(T) == 2 ? 256 : 128;
  static constexpr int kChannelsPerWarp = kChannels < kMostPerWarp ? kChannels : kMostPerWarp;
  static constexpr int kChannelWarps = kChannels / kChannelsPerWarp;
  static constexpr int kDepth = sizeof(T) == 2 && kChannels < 128 ? 16 : kChannels / 8;  // mma needs 16
  static constexpr int kKeys = 64 / static_cast<int>(sizeof(T));                         // a row of 64 bytes
  static constexpr int kQueries = (kChannels <= 256 ? 128 : 64) / static_cast<int>(sizeof(T));
  static constexpr int kRowWarps = kQueries / 16;
  static constexpr int kThreads = 32 * kRowWarps * kChannelWarps;
  static constexpr int kStages = kChannels <= 256 ? 2 : 1;  // 2: the next tile arrives while this one is used
  static constexpr int kBlocks = kChannels > 128 ? 2 : sizeof(T) == 4 ? 4 : kMostBlocks;  // bounds the registers
  static constexpr int kStageElements = (kDepth + kChannels) * kKeys;
  static constexpr int kQueryElements = kDepth * kQueries;
  static constexpr int kSharedBytes = (kQueryElements + kStages * kStageElements) * static_cast<int>(sizeof(T));
  static_assert(kChannels * kQueries <= kStages * kStageElements, "the output tile takes the place of the stages");
  static_assert(kSharedBytes <= 48 * 1024, "more shared memory would have to be asked for before each launch");
};

// Of the second pass, which gives `received`.
template <typename T, int kDepth>
struct ReceivedTiling {
  static constexpr int kKeys = 128 / static_cast<int>(sizeof(T));    // rows of 128 bytes; 16 keys per warp
  static constexpr int kQueries = 64 / static_cast<int>(sizeof(T));  // rows of 64 bytes
  static constexpr int kThreads = 2 * kKeys;
  static constexpr int kSharedBytes = kDepth * (128 + 64) + 2 * kQueries * static_cast<int>(sizeof(float));
};

// ---------------------------------------------------------------------------------------------------
// 1. Device functions
// ---------------------------------------------------------------------------------------------------

// How 16 × 8 numbers lie in a warp, four per lane: as mma.m16n8k16 leaves them for halves; for floats in
// blocks of 4 × 1, so that a value read from shared memory serves four rows.
template <typename T>
struct Layout;

template <>
struct Layout<__half> {
  static constexpr int kRows = 2;         // in which a lane has numbers
  static constexpr int kLanesPerRow = 4;  // neighbours, which share the row
  static __device__ constexpr int slot(int element) { return element / 2; }
  static __device__ int row(int lane, int element) { return lane / 4 + element / 2 * 8; }
  static __device__ int column(int lane, int element) { return lane % 4 * 2 + element % 2; }
};

template <>
struct Layout<float> {
  static constexpr int kRows = 4;
  static constexpr int kLanesPerRow = 8;
  static __device__ constexpr int slot(int element) { return element; }
  static __device__ int row(int lane, int element) { return lane / 8 * 4 + element; }
  static __device__ int column(int lane, int) { return lane % 8; }
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
template <typename T>
__device__ __forceinline__ T from_float(float value) {
  if constexpr (sizeof(T) == 2)
    return __float2half_rn(value);
  else
    return value;
}

// Rows of 64 or 128 bytes in shared memory. Their 16-byte pieces are permuted so that eight rows, read at
// one column, touch all banks once. The permutation repeats after eight rows: a multiple of kEightRows further
// on lies the same column, which lets addresses be one register and a constant.
template <typename T, int kColumns>
struct Tile {
  static constexpr int kPerPiece = 16 / static_cast<int>(sizeof(T));
  static constexpr int kPieces = kColumns / kPerPiece;
  static constexpr int kEightRows = 8 * kColumns;
  static_assert(kPieces == 4 || kPieces == 8);
  T* data;

  __device__ __forceinline__ T* at(int row, int column) const {
    const int swizzle = kPieces == 8 ? row & 7 : row >> 1 & 3;
    return data + row * kColumns + (column / kPerPiece ^ swizzle) * kPerPiece + column % kPerPiece;
  }
};

// How many bytes may be moved at once: every row of every tensor starts at a multiple of them.
enum class Width { kElement, kWord, kSixteen };

// Rows 0 … of the tile become columns first_column … of a [rows, row_length] matrix; zeros beyond its end.
template <int kThreads, typename T, int kColumns>
__device__ __forceinline__ void load_tile(Tile<T, kColumns> tile, const T* matrix, int rows, int row_length,
                                          int first_column, Width width) {
  using Shape = Tile<T, kColumns>;
  const int thread = static_cast<int>(threadIdx.x);
  if (width == Width::kSixteen) {
    constexpr int kStep = kThreads / Shape::kPieces;
    static_assert(kStep % 8 == 0);
    const int piece = thread % Shape::kPieces * Shape::kPerPiece, column = first_column + piece;
    const bool exists = column < row_length;
    int row = thread / Shape::kPieces;
    T* target = tile.at(row, piece);
    const T* source = matrix + row * row_length + (exists ? column : 0);
#pragma unroll kCopiesAtOnce
    for (; row < rows; row += kStep, target += kStep * kColumns, source += kStep * row_length)
      copy_async<16>(target, source, exists);
  } else if (sizeof(T) == 4 || width == Width::kWord) {
    constexpr int kPerWord = 4 / static_cast<int>(sizeof(T)), kWords = kColumns / kPerWord;
    const int word = thread % kWords * kPerWord, column = first_column + word;
    const bool exists = column < row_length;
    const T* source = matrix + (exists ? column : 0);
#pragma unroll kCopiesAtOnce
    for (int row = thread / kWords; row < rows; row += kThreads / kWords)
      copy_async<4>(tile.at(row, word), source + row * row_length, exists);
  } else {
    const int column = thread % kColumns;
    const bool exists = first_column + column < row_length;
    const T* source = matrix + first_column + column;
#pragma unroll 4
    for (int row = thread / kColumns; row < rows; row += kThreads / kColumns)
      *tile.at(row, column) = exists ? load_global(source + row * row_length) : from_float<T>(0.0f);
  }
}

template <int kThreads, typename T, int kColumns>
__device__ __forceinline__ void store_tile(Tile<T, kColumns> tile, T* matrix, int rows, int row_length,
                                           int first_column, Width width) {
  using Shape = Tile<T, kColumns>;
  const int thread = static_cast<int>(threadIdx.x);
  if (width == Width::kSixteen) {
    constexpr int kStep = kThreads / Shape::kPieces;
    const int piece = thread % Shape::kPieces * Shape::kPerPiece, column = first_column + piece;
    if (column >= row_length) return;
    int row = thread / Shape::kPieces;
    const T* source = tile.at(row, piece);
    T* target = matrix + row * row_length + column;
#pragma unroll 4
    for (; row < rows; row += kStep, source += kStep * kColumns, target += kStep * row_length)
      store_global(reinterpret_cast<uint4*>(target), *reinterpret_cast<const uint4*>(source));
  } else {
    const int column = thread % kColumns;
    if (first_column + column >= row_length) return;
    T* target = matrix + first_column + column;
#pragma unroll 4
    for (int row = thread / kColumns; row < rows; row += kThreads / kColumns)
      store_global(target + row * row_length, *tile.at(row, column));
  }
}

// Zeros in rows [first_row, end_row): channels that the tile has and the tensor has not.
template <int kThreads, typename T, int kColumns>
__device__ __forceinline__ void clear_rows(Tile<T, kColumns> tile, int first_row, int end_row) {
#pragma unroll 1
  for (int i = first_row * kColumns + static_cast<int>(threadIdx.x); i < end_row * kColumns; i += kThreads)
    tile.data[i] = from_float<T>(0.0f);
}

// scores[n] = 16 × 8 products of a row (a column of `rows`, from first_row) with column 8n … of `columns`.
template <int kDepth, int kRowColumns, int kColumns>
__device__ __forceinline__ void multiply_scores(float (&scores)[kColumns / 8][4], Tile<__half, kRowColumns> rows,
                                                int first_row, Tile<__half, kColumns> columns) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int matrix = lane / 8, line = lane % 8;
#pragma unroll
  for (int tile = 0; tile < kColumns / 8; ++tile)
#pragma unroll
    for (int element = 0; element < 4; ++element) scores[tile][element] = 0.0f;
  const __half* const left = rows.at(matrix / 2 * 8 + line, first_row + matrix % 2 * 8);
  const __half* right[kColumns / 16];
#pragma unroll
  for (int i = 0; i < kColumns / 16; ++i) right[i] = columns.at(matrix % 2 * 8 + line, i * 16 + matrix / 2 * 8);
#pragma unroll
  for (int depth = 0; depth < kDepth; depth += 16) {
    unsigned a[4];
    ldmatrix_x4<true>(a, left + depth * kRowColumns);
#pragma unroll
    for (int tile = 0; tile < kColumns / 8; tile += 2) {
      unsigned b[4];
      ldmatrix_x4<true>(b, right[tile / 2] + depth * kColumns);
      mma_m16n8k16(scores[tile], a, {b[0], b[1]});
      mma_m16n8k16(scores[tile + 1], a, {b[2], b[3]});
    }
  }
}

template <int kDepth, int kRowColumns, int kColumns>
__device__ __forceinline__ void multiply_scores(float (&scores)[kColumns / 8][4], Tile<float, kRowColumns> rows,
                                                int first_row, Tile<float, kColumns> columns) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int tile = 0; tile < kColumns / 8; ++tile)
#pragma unroll
    for (int element = 0; element < 4; ++element) scores[tile][element] = 0.0f;
#pragma unroll
  for (int depth = 0; depth < kDepth; ++depth) {
    const float4 a = *reinterpret_cast<const float4*>(rows.at(depth, first_row + lane / 8 * 4));
#pragma unroll
    for (int tile = 0; tile < kColumns / 8; ++tile) {
      const float b = *columns.at(depth, tile * 8 + lane % 8);
      scores[tile][0] = multiply_add(a.x, b, scores[tile][0]);
      scores[tile][1] = multiply_add(a.y, b, scores[tile][1]);
      scores[tile][2] = multiply_add(a.z, b, scores[tile][2]);
      scores[tile][3] = multiply_add(a.w, b, scores[tile][3]);
    }
  }
}

// sums [16, channels] += weights [16, keys] · values [channels, keys]ᵀ, from channel first_channel on.
template <int kChannelTiles, int kKeys>
__device__ __forceinline__ void accumulate(float (&sums)[kChannelTiles][4], const float (&weights)[kKeys / 8][4],
                                           Tile<__half, kKeys> values, int first_channel) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int matrix = lane / 8, line = lane % 8;
#pragma unroll
  for (int key = 0; key < kKeys; key += 16) {
    unsigned a[4];  // the layout of the result of one mma is that of the operand of the next, two tiles side by side
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = weights[key / 8 + i / 2] + i % 2 * 2;
      const __half2 halves = __floats2half2_rn(pair[0], pair[1]);
      memcpy(&a[i], &halves, sizeof halves);
    }
    const __half* const right = values.at(first_channel + matrix / 2 * 8 + line, key + matrix % 2 * 8);
#pragma unroll
    for (int tile = 0; tile < kChannelTiles; tile += 2) {
      unsigned b[4];
      ldmatrix_x4<false>(b, right + tile * values.kEightRows);
      mma_m16n8k16(sums[tile], a, {b[0], b[1]});
      mma_m16n8k16(sums[tile + 1], a, {b[2], b[3]});
    }
  }
}

template <int kChannelTiles, int kKeys>
__device__ __forceinline__ void accumulate(float (&sums)[kChannelTiles][4], const float (&weights)[kKeys / 8][4],
                                           Tile<float, kKeys> values, int first_channel) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int key = 0; key < kKeys; key += 4) {
    float a[4][4];  // the weights of four keys, from the lanes that hold them
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element)
        a[i][element] = __shfl_sync(~0u, weights[key / 8][element], lane / 8 * 8 + key % 8 + i);
    const float* const right = values.at(first_channel + lane % 8, key);
#pragma unroll
    for (int tile = 0; tile < kChannelTiles; ++tile) {
      const float4 b = *reinterpret_cast<const float4*>(right + tile * values.kEightRows);
#pragma unroll
      for (int element = 0; element < 4; ++element) {
        sums[tile][element] = multiply_add(a[0][element], b.x, sums[tile][element]);
        sums[tile][element] = multiply_add(a[1][element], b.y, sums[tile][element]);
        sums[tile][element] = multiply_add(a[2][element], b.z, sums[tile][element]);
        sums[tile][element] = multiply_add(a[3][element], b.w, sums[tile][element]);
      }
    }
  }
}

// e^(score - largest). The difference is taken first: it is exact where it matters, while
// score · log2(e) - largest · log2(e) as one multiply-add would be off by powers of two for large scores.
__device__ __forceinline__ float weight(float score, float largest) {
  constexpr float kLog2E = 1.4426950408889634f;
  return exp2_approximate(multiply(score - largest, kLog2E));
}

// The value that is subtracted: 0 where all scores so far are -inf, so that a later finite one still counts.
__device__ __forceinline__ float finite_or_zero(float largest) { return largest == -INFINITY ? 0.0f : largest; }

// Gives the columns from `count` on, which do not exist, no weight.
template <typename T, int kTiles>
__device__ __forceinline__ void leave_out_beyond(float (&scores)[kTiles][4], int count) {
  if (count >= kTiles * 8) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
    for (int element = 0; element < 4; ++element)
      if (tile * 8 + Layout<T>::column(lane, element) >= count) scores[tile][element] = -INFINITY;
}

// ---------------------------------------------------------------------------------------------------
// 2. Kernels
// ---------------------------------------------------------------------------------------------------

// One block: kQueries queries of one sample. Grid: (ceil(positions / kQueries), batch).
template <typename T, typename Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocks)
    self_attention_kernel(SelfAttentionArguments<T> arguments, Width width) {
  using Rows = Layout<T>;
  constexpr int kThreads = Shape::kThreads, kKeys = Shape::kKeys, kQueries = Shape::kQueries;
  constexpr int kScoreTiles = kKeys / 8, kChannelTiles = Shape::kChannelsPerWarp / 8;
  FER_EDGE_DYNAMIC_SHARED(shared);
  const Tile<T, kQueries> queries{reinterpret_cast<T*>(shared)};
  T* const stages = queries.data + Shape::kQueryElements;

  const int channels = arguments.channels, positions = arguments.positions, depth = channels / 8;
  const auto sample = static_cast<size_t>(blockIdx.y) * positions;
  const T* const key = arguments.key + sample * depth;
  const T* const value = arguments.value + sample * channels;
  const int first_query = static_cast<int>(blockIdx.x) * kQueries;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int warp_row = warp % Shape::kRowWarps * 16;
  const int warp_channel = warp / Shape::kRowWarps * Shape::kChannelsPerWarp;

  // A stage: kDepth rows of keys, then kChannels rows of values.
  const auto keys_of = [&](int tile) {
    return Tile<T, kKeys>{stages + tile % Shape::kStages * Shape::kStageElements};
  };
  const auto values_of = [&](int tile) { return Tile<T, kKeys>{keys_of(tile).data + Shape::kDepth * kKeys}; };
  const auto load_stage = [&](int tile) {
    load_tile<kThreads>(keys_of(tile), key, depth, positions, tile * kKeys, width);
    load_tile<kThreads>(values_of(tile), value, channels, positions, tile * kKeys, width);
    copy_async_commit();
  };

  clear_rows<kThreads>(queries, depth, Shape::kDepth);
#pragma unroll
  for (int stage = 0; stage < Shape::kStages; ++stage) {
    clear_rows<kThreads>(keys_of(stage), depth, Shape::kDepth);
    clear_rows<kThreads>(values_of(stage), channels, Shape::kChannels);
  }
  load_tile<kThreads>(queries, arguments.query + sample * depth, depth, positions, first_query, width);
  load_stage(0);

  float sums[kChannelTiles][4] = {};
  float row_max[Rows::kRows], row_sum[Rows::kRows];  // row_sum: of this lane's columns
#pragma unroll
  for (int row = 0; row < Rows::kRows; ++row) row_max[row] = -INFINITY, row_sum[row] = 0.0f;

  const int tiles = (positions + kKeys - 1) / kKeys;
  for (int tile = 0; tile < tiles; ++tile) {
    copy_async_wait<0>();
    __syncthreads();  // this tile is there for all, and all are done with the one before
    if (Shape::kStages == 2 && tile + 1 < tiles) load_stage(tile + 1);

    float scores[kScoreTiles][4];
    multiply_scores<Shape::kDepth>(scores, queries, warp_row, keys_of(tile));
    leave_out_beyond<T>(scores, positions - tile * kKeys);

    float largest[Rows::kRows], shrink[Rows::kRows];
    bool shrinks = false;
#pragma unroll
    for (int row = 0; row < Rows::kRows; ++row) largest[row] = row_max[row];
#pragma unroll
    for (int i = 0; i < kScoreTiles; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element)
        largest[Rows::slot(element)] = fmaxf(largest[Rows::slot(element)], scores[i][element]);
#pragma unroll
    for (int row = 0; row < Rows::kRows; ++row) {
#pragma unroll
      for (int lanes = 1; lanes < Rows::kLanesPerRow; lanes *= 2)
        largest[row] = fmaxf(largest[row], __shfl_xor_sync(~0u, largest[row], lanes));
      const float subtracted = finite_or_zero(largest[row]);
      shrink[row] = weight(row_max[row], subtracted);
      shrinks |= shrink[row] != 1.0f;
      row_max[row] = largest[row];
      largest[row] = subtracted;
      row_sum[row] = multiply(row_sum[row], shrink[row]);
    }
#pragma unroll
    for (int i = 0; i < kScoreTiles; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element) {
        scores[i][element] = weight(scores[i][element], largest[Rows::slot(element)]);
        row_sum[Rows::slot(element)] += scores[i][element];
      }
    // After the first tiles the largest score seldom grows.
    if (__any_sync(~0u, shrinks)) {
#pragma unroll
      for (int i = 0; i < kChannelTiles; ++i)
#pragma unroll
        for (int element = 0; element < 4; ++element)
          sums[i][element] = multiply(sums[i][element], shrink[Rows::slot(element)]);
    }
    accumulate(sums, scores, values_of(tile), warp_channel);

    if (Shape::kStages == 1 && tile + 1 < tiles) {
      __syncthreads();  // all are done with the only stage
      load_stage(tile + 1);
    }
  }

  // The epilogue: γ / Σ · sums + residual, through shared memory so that global memory sees whole rows.
  const float gamma = to_float(load_global(arguments.gamma));
  float factor[Rows::kRows];
#pragma unroll
  for (int row = 0; row < Rows::kRows; ++row) {
#pragma unroll
    for (int lanes = 1; lanes < Rows::kLanesPerRow; lanes *= 2)
      row_sum[row] += __shfl_xor_sync(~0u, row_sum[row], lanes);
    factor[row] = gamma / row_sum[row];
  }
  if (arguments.row_statistics && warp_channel == 0 && lane % Rows::kLanesPerRow == 0) {
    float* const statistics = arguments.row_statistics + 2 * sample;
#pragma unroll
    for (int element = 0; element < 4; ++element) {
      const int query = first_query + warp_row + Rows::row(lane, element);
      if ((Rows::kRows == 4 || element % 2 == 0) && query < positions) {
        store_global(statistics + query, row_max[Rows::slot(element)]);
        store_global(statistics + positions + query, 1.0f / row_sum[Rows::slot(element)]);
      }
    }
  }
  __syncthreads();  // all are done with the last stage
  const Tile<T, kQueries> outputs{stages};
  load_tile<kThreads>(outputs, arguments.residual + sample * channels, channels, positions, first_query, width);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kChannelTiles; ++i) {
    if (warp_channel + i * 8 >= channels) break;
#pragma unroll
    for (int element = 0; element < 4; ++element) {
      T* const cell = outputs.at(warp_channel + i * 8 + Rows::column(lane, element),
                                 warp_row + Rows::row(lane, element));
      *cell = from_float<T>(multiply_add(factor[Rows::slot(element)], sums[i][element], to_float(*cell)));
    }
  }
  __syncthreads();
  store_tile<kThreads>(outputs, arguments.out + sample * channels, channels, positions, first_query, width);
}

// received[j] = mean over i of the weight that i gives to j, with the row statistics of the first pass: the
// same products with the roles of query and key exchanged. One block: a tile of keys of one sample.
template <typename T, int kDepth>
__global__ void __launch_bounds__(ReceivedTiling<T, kDepth>::kThreads, 6)
    received_kernel(SelfAttentionArguments<T> arguments, Width width) {
  using Shape = ReceivedTiling<T, kDepth>;
  using Rows = Layout<T>;
  constexpr int kThreads = Shape::kThreads, kColumns = Shape::kQueries;
  FER_EDGE_DYNAMIC_SHARED(shared);
  const Tile<T, Shape::kKeys> keys{reinterpret_cast<T*>(shared)};
  const Tile<T, kColumns> queries{keys.data + kDepth * Shape::kKeys};
  auto* const statistics = reinterpret_cast<float*>(queries.data + kDepth * kColumns);  // [2, kColumns]

  const int positions = arguments.positions, depth = arguments.channels / 8;
  const auto sample = static_cast<size_t>(blockIdx.y) * positions;
  const float* const row_statistics = arguments.row_statistics + 2 * sample;
  const int first_key = static_cast<int>(blockIdx.x) * Shape::kKeys;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp_row = thread / 32 * 16;

  clear_rows<kThreads>(keys, depth, kDepth);
  clear_rows<kThreads>(queries, depth, kDepth);
  load_tile<kThreads>(keys, arguments.key + sample * depth, depth, positions, first_key, width);

  float sums[Rows::kRows] = {};
  for (int first_query = 0; first_query < positions; first_query += kColumns) {
    load_tile<kThreads>(queries, arguments.query + sample * depth, depth, positions, first_query, width);
    copy_async_commit();
    if (thread < kColumns) {
      const int query = first_query + thread;
      const bool exists = query < positions;
      statistics[thread] = exists ? load_global(row_statistics + query) : 0.0f;
      statistics[kColumns + thread] = exists ? load_global(row_statistics + positions + query) : 0.0f;
    }
    copy_async_wait<0>();
    __syncthreads();
    float scores[kColumns / 8][4];
    multiply_scores<kDepth>(scores, keys, warp_row, queries);
    leave_out_beyond<T>(scores, positions - first_query);
#pragma unroll
    for (int i = 0; i < kColumns / 8; ++i)
#pragma unroll
      for (int element = 0; element < 4; ++element) {
        const int column = i * 8 + Rows::column(lane, element);
        sums[Rows::slot(element)] = multiply_add(weight(scores[i][element], statistics[column]),
                                                 statistics[kColumns + column], sums[Rows::slot(element)]);
      }
    __syncthreads();  // all are done with these queries
  }

#pragma unroll
  for (int row = 0; row < Rows::kRows; ++row)
#pragma unroll
    for (int lanes = 1; lanes < Rows::kLanesPerRow; lanes *= 2)
      sums[row] += __shfl_xor_sync(~0u, sums[row], lanes);
  if (lane % Rows::kLanesPerRow) return;
#pragma unroll
  for (int element = 0; element < 4; ++element) {
    const int key = first_key + warp_row + Rows::row(lane, element);
    if ((Rows::kRows == 4 || element % 2 == 0) && key < positions)
      store_global(arguments.received + sample + key,
                   from_float<T>(sums[Rows::slot(element)] / static_cast<float>(positions)));
  }
}

// ---------------------------------------------------------------------------------------------------
// 3. Checked launcher
// ---------------------------------------------------------------------------------------------------

template <typename T>
Status check_self_attention(const SelfAttentionArguments<T>& a) {
  const Status shape = check_self_attention_shape(a.batch, a.channels, a.positions);
  if (!shape.ok() || a.batch == 0 || a.positions == 0) return shape;

  const size_t row = sizeof(T) * static_cast<size_t>(a.batch) * a.positions;
  const struct {
    const char* name;
    const void* pointer;
    size_t bytes;
    bool written, optional;
    size_t alignment;
  } tensors[] = {
      {"query", a.query, row * (a.channels / 8), false, false, sizeof(T)},
      {"key", a.key, row * (a.channels / 8), false, false, sizeof(T)},
      {"value", a.value, row * a.channels, false, false, sizeof(T)},
      {"residual", a.residual, row * a.channels, false, false, sizeof(T)},
      {"gamma", a.gamma, sizeof(T), false, false, sizeof(T)},
      {"out", a.out, row * a.channels, true, false, sizeof(T)},
      {"received", a.received, row, true, true, sizeof(T)},
      {"row_statistics", a.row_statistics, row_statistics_bytes(a.batch, a.positions), true, !a.received, sizeof(float)},
  };
  for (const auto& tensor : tensors) {
    const auto begin = reinterpret_cast<uintptr_t>(tensor.pointer);
    if (!begin && !tensor.optional) return failed(StatusCode::kBadPointer, "%s is a null pointer", tensor.name);
    if (begin % tensor.alignment)
      return failed(StatusCode::kBadPointer, "%s must be aligned to %zu bytes", tensor.name, tensor.alignment);
    for (const auto& other : tensors) {
      const auto other_begin = reinterpret_cast<uintptr_t>(other.pointer);
      if (tensor.written && begin && other_begin && &other != &tensor && begin < other_begin + other.bytes &&
          other_begin < begin + tensor.bytes)
        return failed(StatusCode::kBadPointer, "%s overlaps %s: it must have memory of its own", tensor.name,
                      other.name);
    }
  }
  return {};
}

template <typename Shape, typename T>
Status launch_tiling(const SelfAttentionArguments<T>& a, cudaStream_t stream) {
  uintptr_t starts = a.positions * sizeof(T);
  // A named array: for a braced list here, nvcc 13.0 generates host code that does not compile.
  const void* const pointers[] = {a.query, a.key, a.value, a.residual, a.out};
  for (const void* pointer : pointers)
    starts |= reinterpret_cast<uintptr_t>(pointer);
  const Width width = starts % 16 == 0 ? Width::kSixteen : starts % 4 == 0 ? Width::kWord : Width::kElement;

  const auto grid = [&](int tile) {
    return dim3(static_cast<unsigned>((a.positions + tile - 1) / tile), static_cast<unsigned>(a.batch));
  };
  cudaError_t error = launch(self_attention_kernel<T, Shape>, grid(Shape::kQueries), Shape::kThreads,
                             Shape::kSharedBytes, stream, a, width);
  if (error == cudaSuccess && a.received) {
    using Received = ReceivedTiling<T, Shape::kDepth>;
    error = launch(received_kernel<T, Shape::kDepth>, grid(Received::kKeys), Received::kThreads,
                   Received::kSharedBytes, stream, a, width);
  }
  if (error != cudaSuccess)
    return failed(StatusCode::kLaunchFailed, "the launch of self_attention failed: %s", cudaGetErrorString(error));
  return {};
}

// Enqueues out = γ · V softmax(QᵀK)ᵀ + residual on the stream, and returns at once. Allocates nothing.
template <typename T>
Status launch_self_attention(const SelfAttentionArguments<T>& arguments, cudaStream_t stream) {
  const Status status = check_self_attention(arguments);
  if (!status.ok() || arguments.batch == 0 || arguments.positions == 0) return status;
  if (arguments.channels <= 32) return launch_tiling<Tiling<T, 32>>(arguments, stream);
  if (arguments.channels <= 64) return launch_tiling<Tiling<T, 64>>(arguments, stream);
  if (arguments.channels <= 128) return launch_tiling<Tiling<T, 128>>(arguments, stream);
  if (arguments.channels <= 256) return launch_tiling<Tiling<T, 256>>(arguments, stream);
  return launch_tiling<Tiling<T, 512>>(arguments, stream);
}

}  // namespace fer_edge
