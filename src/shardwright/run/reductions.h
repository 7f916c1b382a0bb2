// How parts of several ranks are reduced to one: in rank order, so that the bits are the same wherever it is done.

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Float8_e4m3fn.h>
#include <c10/util/Float8_e4m3fnuz.h>
#include <c10/util/Float8_e5m2.h>
#include <c10/util/Float8_e5m2fnuz.h>
#include <c10/util/Half.h>
#include <c10/util/complex.h>
#include <torch/csrc/distributed/c10d/Types.hpp>

namespace shardwright {

using RedOp = c10d::ReduceOp::RedOpType;

// to[i] = from[0][i] ∘ from[1][i] ∘ …, divided by `divisor`; `bytes`: of one part. `to` may be one of the parts.
using Reduce = void (*)(const char* const* from, size_t parts, char* to, size_t bytes, double divisor);

// Narrow numbers are reduced in 32 bits and rounded once.
template <typename T>
struct Wide {
  using type = T;
};
#define SHARDWRIGHT_WIDE(narrow, wide) \
  template <>                          \
  struct Wide<narrow> {                \
    using type = wide;                 \
  }
SHARDWRIGHT_WIDE(c10::Half, float);
SHARDWRIGHT_WIDE(c10::BFloat16, float);
SHARDWRIGHT_WIDE(c10::Float8_e4m3fn, float);
SHARDWRIGHT_WIDE(c10::Float8_e4m3fnuz, float);
SHARDWRIGHT_WIDE(c10::Float8_e5m2, float);
SHARDWRIGHT_WIDE(c10::Float8_e5m2fnuz, float);
SHARDWRIGHT_WIDE(c10::complex<c10::Half>, c10::complex<float>);
#undef SHARDWRIGHT_WIDE

struct Sum {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Product {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a * b);
  }
};
// A NaN on any rank is the result, as torch's own maximum and minimum have it.
struct Max {
  template <typename T>
  static T apply(T a, T b) {
    return (a > b || a != a) ? a : b;
  }
};
struct Min {
  template <typename T>
  static T apply(T a, T b) {
    return (a < b || a != a) ? a : b;
  }
};
struct Or {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a | b);
  }
};
struct And {
  template <typename T>
  static T apply(T a, T b) {
    return static_cast<T>(a & b);
  }
};

template <typename T, typename Op>
void reduce_as(const char* const* from, size_t parts, char* to, size_t bytes, double divisor) {
  using W = typename Wide<T>::type;
  constexpr size_t block = 1024;
  W held[block];
  T* out = reinterpret_cast<T*>(to);
  const size_t count = bytes / sizeof(T);
  for (size_t start = 0; start < count; start += block) {
    const size_t n = std::min(block, count - start);
    const T* first = reinterpret_cast<const T*>(from[0]) + start;
    for (size_t i = 0; i < n; ++i) held[i] = static_cast<W>(first[i]);
    for (size_t part = 1; part < parts; ++part) {
      const T* next = reinterpret_cast<const T*>(from[part]) + start;
      for (size_t i = 0; i < n; ++i) held[i] = Op::template apply<W>(held[i], static_cast<W>(next[i]));
    }
    if constexpr (!std::is_integral_v<W>) {
      if (divisor != 1.0) {
        for (size_t i = 0; i < n; ++i) held[i] = static_cast<W>(held[i] / static_cast<W>(divisor));
      }
    }
    for (size_t i = 0; i < n; ++i) out[start + i] = static_cast<T>(held[i]);
  }
}

template <typename T>
Reduce summing(RedOp op) {
  switch (op) {
    case RedOp::SUM:
      return reduce_as<T, Sum>;
    case RedOp::AVG:
      return std::is_integral_v<T> ? nullptr : reduce_as<T, Sum>;
    case RedOp::PRODUCT:
      return reduce_as<T, Product>;
    default:
      return nullptr;
  }
}

template <typename T>
Reduce ordered(RedOp op) {
  switch (op) {
    case RedOp::MAX:
      return reduce_as<T, Max>;
    case RedOp::MIN:
      return reduce_as<T, Min>;
    default:
      return summing<T>(op);
  }
}

template <typename T>
Reduce integral(RedOp op) {
  switch (op) {
    case RedOp::BOR:
      return reduce_as<T, Or>;
    case RedOp::BAND:
      return reduce_as<T, And>;
    default:
      return ordered<T>(op);
  }
}

// The sum of truth values is whether any is true.
inline Reduce of_truth(RedOp op) {
  switch (op) {
    case RedOp::SUM:
    case RedOp::MAX:
    case RedOp::BOR:
      return reduce_as<uint8_t, Or>;
    case RedOp::PRODUCT:
    case RedOp::MIN:
    case RedOp::BAND:
      return reduce_as<uint8_t, And>;
    default:
      return nullptr;
  }
}

// The reduction of a dtype; null where there is none.
inline Reduce reduction_of(c10::ScalarType dtype, RedOp op) {
  switch (dtype) {
    case c10::ScalarType::Float:
      return ordered<float>(op);
    case c10::ScalarType::Double:
      return ordered<double>(op);
    case c10::ScalarType::Half:
      return ordered<c10::Half>(op);
    case c10::ScalarType::BFloat16:
      return ordered<c10::BFloat16>(op);
    case c10::ScalarType::Float8_e4m3fn:
      return ordered<c10::Float8_e4m3fn>(op);
    case c10::ScalarType::Float8_e4m3fnuz:
      return ordered<c10::Float8_e4m3fnuz>(op);
    case c10::ScalarType::Float8_e5m2:
      return ordered<c10::Float8_e5m2>(op);
    case c10::ScalarType::Float8_e5m2fnuz:
      return ordered<c10::Float8_e5m2fnuz>(op);
    case c10::ScalarType::Char:
      return integral<int8_t>(op);
    case c10::ScalarType::Byte:
      return integral<uint8_t>(op);
    case c10::ScalarType::Short:
      return integral<int16_t>(op);
    case c10::ScalarType::UInt16:
      return integral<uint16_t>(op);
    case c10::ScalarType::Int:
      return integral<int32_t>(op);
    case c10::ScalarType::UInt32:
      return integral<uint32_t>(op);
    case c10::ScalarType::Long:
      return integral<int64_t>(op);
    case c10::ScalarType::UInt64:
      return integral<uint64_t>(op);
    case c10::ScalarType::Bool:
      return of_truth(op);
    case c10::ScalarType::ComplexHalf:
      return summing<c10::complex<c10::Half>>(op);
    case c10::ScalarType::ComplexFloat:
      return summing<c10::complex<float>>(op);
    case c10::ScalarType::ComplexDouble:
      return summing<c10::complex<double>>(op);
    default:
      return nullptr;
  }
}

}  // namespace shardwright
