// One call of a collective.

#pragma once

#include <exception>
#include <utility>
#include <vector>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/distributed/c10d/Work.hpp>

#include "rounds.h"

namespace shardwright {

using Tensors = std::vector<at::Tensor>;

class Queue;

// A call, from when it is made until it is done: the collectives it takes, and the tensors that they read and write.
class Operation : public c10d::Work {
 public:
  Operation(int rank, c10d::OpType type, Milliseconds timeout, Tensors results)
      : Work(rank, type), timeout_(timeout), results_(std::move(results)) {}

  bool isCompleted() override;
  bool wait(Milliseconds timeout) override;

  Tensors result() override {
    return results_;
  }

  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    // Nothing but a wait would bring the call on.
    wait(kNoTimeout);
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
    future->markCompleted(c10::IValue(results_));
    return future;
  }

  // Its memory is only read.
  Part input(const at::Tensor& tensor) {
    return {const_cast<char*>(static_cast<const char*>(dense(tensor).const_data_ptr())), tensor.nbytes()};
  }

  // Dense memory for a result of the same dtype as `like`.
  Part output(const at::Tensor& tensor, const at::Tensor& like) {
    TORCH_CHECK(
        tensor.scalar_type() == like.scalar_type(),
        "an output is of ", c10::toString(tensor.scalar_type()), ", the input of ", c10::toString(like.scalar_type()));
    auto draft = tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()
        ? tensor
        : at::empty_like(tensor.resolve_conj().resolve_neg(), at::MemoryFormat::Contiguous);
    return draft_of(tensor, draft);
  }

  // Dense memory with what the tensor holds, which becomes the result.
  Part in_place(const at::Tensor& tensor) {
    return draft_of(tensor, dense(tensor));
  }

  void add(Rounds rounds) {
    collectives_.push_back(std::move(rounds));
  }

  // Bring it on as far as it goes without waiting; whether all is done.
  bool advance(Phases& phases) {
    while (at_ < collectives_.size()) {
      auto& one = collectives_[at_];
      if (!is_published_) {
        phases.begin(round_ == 0 ? &one.call : nullptr);
        one.write(round_);
        phases.publish();
        is_published_ = true;
      }
      if (!phases.all_have_come()) return false;
      if (round_ == 0) phases.agree(one.call);
      is_published_ = false;
      if (one.read(round_)) {
        ++round_;
      } else {
        ++at_;
        round_ = 0;
      }
    }
    return true;
  }

  // The collective that waits for other ranks.
  Kind kind() const {
    return collectives_[at_].call.kind;
  }

  void end(std::exception_ptr failure) {
    if (!failure) {
      try {
        give_results();
      } catch (...) {
        // A result that cannot be written (its elements share memory) is this call's failure, not its peers'.
        failure = std::current_exception();
      }
    }
    is_done_ = true;
    finish(failure);
    collectives_.clear();
    drafts_.clear();
    held_.clear();
  }

 private:
  friend class Queue;

  c10::intrusive_ptr<Queue> queue_;
  Milliseconds timeout_;
  Tensors results_;
  std::vector<Rounds> collectives_;
  std::vector<std::pair<at::Tensor, at::Tensor>> drafts_;  // results that do not lie densely, and where they are made
  Tensors held_;
  size_t at_ = 0, round_ = 0;
  bool is_published_ = false;
  bool is_done_ = false;

  // The tensor as dense memory, which lives as long as the call.
  at::Tensor dense(const at::Tensor& tensor) {
    TORCH_CHECK(tensor.device().is_cpu(), "the shared-memory backend takes CPU tensors, not ", tensor.device());
    TORCH_CHECK(tensor.layout() == at::kStrided, "the shared-memory backend takes strided tensors");
    at::AutoDispatchBelowADInplaceOrView guard;
    held_.push_back(tensor.resolve_conj().resolve_neg().contiguous());
    return held_.back();
  }

  Part draft_of(const at::Tensor& tensor, const at::Tensor& draft) {
    if (!draft.is_same(tensor)) drafts_.emplace_back(tensor, draft);
    held_.push_back(draft);
    return {static_cast<char*>(draft.mutable_data_ptr()), tensor.nbytes()};
  }

  void give_results() {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (auto& [result, draft] : drafts_) {
      if (result.data_ptr() != draft.data_ptr()) result.copy_(draft);
    }
  }
};

using Pending = c10::intrusive_ptr<Operation>;

}  // namespace shardwright
