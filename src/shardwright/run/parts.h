// Parts of tensors, as bytes in memory.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <ATen/core/Tensor.h>

namespace shardwright {

// Bytes in memory.
struct Part {
  char* data;
  size_t bytes;
};

using Parts = std::vector<Part>;

inline size_t divided_up(size_t bytes, size_t by) {
  return (bytes + by - 1) / by;
}

inline size_t rounds_for(size_t bytes, size_t a_round) {
  return std::max<size_t>(1, divided_up(bytes, a_round));
}

// What of `bytes` lies in a window of `length` from `start`.
inline size_t within(size_t bytes, size_t start, size_t length) {
  return bytes > start ? std::min(length, bytes - start) : 0;
}

inline void copy(char* to, const char* from, size_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, bytes);
}

inline size_t sum_of(const Parts& parts) {
  size_t bytes = 0;
  for (auto& part : parts) bytes += part.bytes;
  return bytes;
}

inline size_t most_of(const Parts& parts) {
  size_t bytes = 0;
  for (auto& part : parts) bytes = std::max(bytes, part.bytes);
  return bytes;
}

// Equal parts of `bytes` each, one for every rank.
inline Parts equal_parts(Part whole, size_t bytes, int ranks) {
  Parts parts;
  for (int rank = 0; rank < ranks; ++rank) parts.push_back({whole.data + rank * bytes, bytes});
  return parts;
}

// Parts for (or from) every rank, by sizes of the first dim; none: equal parts.
inline Parts parts_by_size(
    Part whole, const at::Tensor& tensor, const std::vector<int64_t>& sizes, int ranks, const char* which) {
  Parts found;
  const int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 1;
  if (sizes.empty()) {
    TORCH_CHECK(
        rows % ranks == 0, "all_to_all: the first dim of the ", which, " (", rows, ") does not divide by ", ranks);
  }
  TORCH_CHECK(
      sizes.empty() || static_cast<int>(sizes.size()) == ranks,
      "all_to_all: a size for every rank is needed for the ", which);
  const size_t row = rows > 0 ? whole.bytes / rows : 0;
  int64_t sum = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    const int64_t one = sizes.empty() ? rows / ranks : sizes[rank];
    TORCH_CHECK(one >= 0, "all_to_all: a negative size for the ", which);
    found.push_back({whole.data + sum * row, one * row});
    sum += one;
  }
  TORCH_CHECK(sum == rows, "all_to_all: the sizes sum to ", sum, ", the ", which, " has ", rows, " rows");
  return found;
}

}  // namespace shardwright
