// A torch.distributed backend for ranks of one host: collectives through memory that the ranks share (`phases.h`).
//
// A collective is a few rounds, one a phase: write into my slot, meet, read the others' slots. What is reduced is
// reduced in rank order, each element by one rank or by all in the same way, so that the bits are the same on all
// ranks and in all runs (`reductions.h`).
//
// A call writes its first round and returns; what is left is done where its Work is waited for, or asked whether it is
// done, or when a later call of the group comes to need it. There are no threads. What this backend has no collective
// for (single messages between two ranks) is left to another backend, where one is given.

#include <algorithm>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/utils/pybind.h>

#include "phases.h"
#include "reductions.h"

namespace shardwright {
namespace {

using Tensors = std::vector<at::Tensor>;

constexpr size_t kSmall = 32 << 10;  // all-reduces up to this many bytes take one round
constexpr size_t kBlock = 16 << 10;  // what is copied once more while it is in the processor's cache

// One collective. `write`: a round's part into my slot; `read`: out of the others' slots, and whether a round follows.
struct Rounds {
  Call call;
  std::function<void(size_t)> write;
  std::function<bool(size_t)> read;
};

struct Part {
  char* data;
  size_t bytes;
};

size_t divided_up(size_t bytes, size_t by) {
  return (bytes + by - 1) / by;
}

size_t rounds_for(size_t bytes, size_t a_round) {
  return std::max<size_t>(1, divided_up(bytes, a_round));
}

// What of `bytes` lies in a window of `length` from `start`.
size_t within(size_t bytes, size_t start, size_t length) {
  return bytes > start ? std::min(length, bytes - start) : 0;
}

void copy(char* to, const char* from, size_t bytes) {
  if (to != from && bytes > 0) std::memcpy(to, from, bytes);
}

class SharedMemory;

// A call, from when it is made until it is done.
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

 private:
  friend class SharedMemory;

  c10::intrusive_ptr<SharedMemory> group_;
  Milliseconds timeout_;
  Tensors results_;
  std::vector<Rounds> parts_;
  std::vector<std::pair<at::Tensor, at::Tensor>> drafts_;  // results that do not lie densely, and where they are made
  Tensors held_;
  size_t part_ = 0, round_ = 0;
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

  // Its memory is only read.
  char* input(const at::Tensor& tensor) {
    return const_cast<char*>(static_cast<const char*>(dense(tensor).const_data_ptr()));
  }

  // Dense memory for a result of the same dtype as `like`.
  char* output(const at::Tensor& tensor, const at::Tensor& like) {
    TORCH_CHECK(
        tensor.scalar_type() == like.scalar_type(),
        "an output is of ", c10::toString(tensor.scalar_type()), ", the input of ", c10::toString(like.scalar_type()));
    auto draft = tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg()
        ? tensor
        : at::empty_like(tensor.resolve_conj().resolve_neg(), at::MemoryFormat::Contiguous);
    return draft_of(tensor, draft);
  }

  // Dense memory with what the tensor holds, which becomes the result.
  char* in_place(const at::Tensor& tensor) {
    return draft_of(tensor, dense(tensor));
  }

  char* draft_of(const at::Tensor& tensor, const at::Tensor& draft) {
    if (!draft.is_same(tensor)) drafts_.emplace_back(tensor, draft);
    held_.push_back(draft);
    return static_cast<char*>(draft.mutable_data_ptr());
  }

  void give_results() {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (auto& [result, draft] : drafts_) {
      if (result.data_ptr() != draft.data_ptr()) result.copy_(draft);
    }
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
    parts_.clear();
    drafts_.clear();
    held_.clear();
  }
};

using Pending = c10::intrusive_ptr<Operation>;

class SharedMemory : public c10d::Backend {
 public:
  // `rest`: what does what this backend cannot; or nothing. For the others, see `Phases`.
  SharedMemory(
      int rank,
      int size,
      int file,
      size_t slot,
      Milliseconds timeout,
      std::vector<int64_t> names,
      c10::intrusive_ptr<c10d::Backend> rest)
      : Backend(rank, size),
        phases_(rank, size, file, slot, std::move(names)),
        options_(c10::make_intrusive<Options>("shardwright", timeout)),
        rest_(std::move(rest)),
        from_(size) {
    TORCH_CHECK(slot % kLine == 0 && slot >= 2 * kSmall && slot / kLine >= 2 * from_.size(), "odd slot size ", slot);
  }

  const std::string getBackendName() const override {
    return "shardwright";
  }

  c10::intrusive_ptr<Options> getBackendOptions() override {
    return options_;
  }

  void setTimeout(Milliseconds timeout) override {
    options_->timeout = timeout;
    if (rest_) rest_->setTimeout(timeout);
  }

  void setSequenceNumberForGroup() override {}

  uint64_t getSequenceNumberForGroup() override {
    return phases_.number();
  }

  void shutdown() override {
    std::lock_guard<std::mutex> lock(guard_);
    drop(std::make_exception_ptr(std::runtime_error("the process group was shut down")));
    if (rest_) rest_->shutdown();
  }

  // --- torch's calls -------------------------------------------------------------------------------------------

  Pending called(c10d::OpType type, const Milliseconds& timeout, const Tensors& results) {
    return c10::make_intrusive<Operation>(getRank(), type, timeout, results);
  }

  c10::intrusive_ptr<c10d::Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return reduce_all(called(c10d::OpType::ALLREDUCE, options.timeout, tensors), options.reduceOp);
  }

  c10::intrusive_ptr<c10d::Work> allreduce_coalesced(
      Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    return reduce_all(called(c10d::OpType::ALLREDUCE_COALESCED, options.timeout, tensors), options.reduceOp);
  }

  c10::intrusive_ptr<c10d::Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto call = called(c10d::OpType::REDUCE, options.timeout, tensors);
    const int root = root_of(options.rootRank);
    for (auto& tensor : tensors) {
      // The tensors of other ranks stay as they are.
      char* data = getRank() == root ? call->in_place(tensor) : call->input(tensor.clone());
      all_reduce(*call, {data, tensor.nbytes()}, tensor, options.reduceOp, root);
    }
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> _allgather_base(
      at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
    auto call = called(c10d::OpType::_ALLGATHER_BASE, options.timeout, {output});
    gather_into(*call, output, input);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> allgather_into_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    auto call = called(c10d::OpType::ALLGATHER_COALESCED, options.timeout, outputs);
    TORCH_CHECK(outputs.size() == inputs.size(), "all_gather takes an output for every input");
    for (size_t i = 0; i < inputs.size(); ++i) gather_into(*call, outputs[i], inputs[i]);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> allgather(
      std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
    TORCH_CHECK(outputs.size() == inputs.size(), "all_gather takes a list of outputs for every input");
    auto call = called(c10d::OpType::ALLGATHER, options.timeout, outputs.empty() ? Tensors{} : outputs[0]);
    for (size_t i = 0; i < inputs.size(); ++i) {
      gather(*call, Kind::all_gather, parts_of(*call, outputs[i], inputs[i]), inputs[i], -1);
    }
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> gather(
      std::vector<Tensors>& outputs, Tensors& inputs, const c10d::GatherOptions& options) override {
    TORCH_CHECK(inputs.size() == 1, "gather takes one input");
    const int root = root_of(options.rootRank);
    auto call = called(c10d::OpType::GATHER, options.timeout, getRank() == root ? outputs.at(0) : Tensors{});
    // Other ranks name no outputs: theirs are as long as their input.
    auto parts = getRank() == root ? parts_of(*call, outputs[0], inputs[0])
                                   : std::vector<Part>(getSize(), Part{nullptr, inputs[0].nbytes()});
    gather(*call, Kind::gather, parts, inputs[0], root);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> scatter(
      Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override {
    TORCH_CHECK(outputs.size() == 1, "scatter takes one output");
    const int root = root_of(options.rootRank);
    auto call = called(c10d::OpType::SCATTER, options.timeout, outputs);
    std::vector<Part> parts;
    if (getRank() == root) {
      TORCH_CHECK(static_cast<int>(inputs.at(0).size()) == getSize(), "scatter takes an input for every rank");
      for (auto& input : inputs[0]) {
        TORCH_CHECK(input.nbytes() == outputs[0].nbytes(), "scatter: an input has another size than the output");
        parts.push_back({call->input(input), input.nbytes()});
      }
    }
    scatter(*call, parts, {call->output(outputs[0], parts.empty() ? outputs[0] : inputs[0][0]), outputs[0].nbytes()}, outputs[0], root);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> _reduce_scatter_base(
      at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override {
    auto call = called(c10d::OpType::_REDUCE_SCATTER_BASE, options.timeout, {output});
    reduce_scatter_into(*call, output, input, options.reduceOp);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> reduce_scatter_tensor_coalesced(
      Tensors& outputs, Tensors& inputs, const c10d::ReduceScatterOptions& options) override {
    auto call = called(c10d::OpType::REDUCE_SCATTER_TENSOR_COALESCED, options.timeout, outputs);
    TORCH_CHECK(outputs.size() == inputs.size(), "reduce_scatter takes an output for every input");
    for (size_t i = 0; i < inputs.size(); ++i) reduce_scatter_into(*call, outputs[i], inputs[i], options.reduceOp);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> reduce_scatter(
      Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ReduceScatterOptions& options) override {
    auto call = called(c10d::OpType::REDUCE_SCATTER, options.timeout, outputs);
    TORCH_CHECK(outputs.size() == inputs.size(), "reduce_scatter takes a list of inputs for every output");
    for (size_t i = 0; i < outputs.size(); ++i) {
      TORCH_CHECK(static_cast<int>(inputs[i].size()) == getSize(), "reduce_scatter takes an input for every rank");
      std::vector<Part> parts;
      for (auto& input : inputs[i]) parts.push_back({call->input(input), input.nbytes()});
      reduce_scatter(*call, parts, outputs[i], inputs[i][0], options.reduceOp);
    }
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> alltoall_base(
      at::Tensor& output,
      at::Tensor& input,
      std::vector<int64_t>& output_splits,
      std::vector<int64_t>& input_splits,
      const c10d::AllToAllOptions& options) override {
    auto call = called(c10d::OpType::ALLTOALL_BASE, options.timeout, {output});
    auto sent = split(call->input(input), input, input_splits, "input");
    auto received = split(call->output(output, input), output, output_splits, "output");
    all_to_all(*call, std::move(sent), std::move(received), input);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> alltoall(
      Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override {
    TORCH_CHECK(
        outputs.size() == inputs.size() && static_cast<int>(inputs.size()) == getSize(),
        "all_to_all takes a tensor for every rank");
    auto call = called(c10d::OpType::ALLTOALL, options.timeout, outputs);
    std::vector<Part> sent, received;
    for (auto& input : inputs) sent.push_back({call->input(input), input.nbytes()});
    for (auto& output : outputs) received.push_back({call->output(output, inputs[0]), output.nbytes()});
    all_to_all(*call, std::move(sent), std::move(received), inputs[0]);
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto call = called(c10d::OpType::BROADCAST, options.timeout, tensors);
    for (auto& tensor : tensors) {
      broadcast(*call, {call->in_place(tensor), tensor.nbytes()}, tensor, root_of(options.rootRank));
    }
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& options) override {
    auto call = called(c10d::OpType::BARRIER, options.timeout, {});
    call->parts_.push_back({{Kind::barrier}, [](size_t) {}, [](size_t) { return false; }});
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> allreduce_sparse(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return rest("sparse all_reduce").allreduce_sparse(tensors, options);
  }

  c10::intrusive_ptr<c10d::Work> send(Tensors& tensors, int to, int tag) override {
    return rest("send").send(tensors, to, tag);
  }

  c10::intrusive_ptr<c10d::Work> recv(Tensors& tensors, int from, int tag) override {
    return rest("recv").recv(tensors, from, tag);
  }

  c10::intrusive_ptr<c10d::Work> recvAnysource(Tensors& tensors, int tag) override {
    return rest("recv").recvAnysource(tensors, tag);
  }

  void monitoredBarrier(const c10d::BarrierOptions& options, bool wait_for_all) override {
    rest("monitored_barrier").monitoredBarrier(options, wait_for_all);
  }

  // --- what an operation asks ----------------------------------------------------------------------------------

  // Do all of a call, and of those before it.
  void complete(Operation& call, Milliseconds timeout) {
    std::lock_guard<std::mutex> lock(guard_);
    if (timeout.count() <= 0) timeout = call.timeout_.count() > 0 ? call.timeout_ : options_->timeout;
    while (!call.is_done_) {
      auto& first = *calls_.front();
      try {
        if (!advance(first)) phases_.await_all(first.parts_[first.part_].call.kind, timeout);
      } catch (...) {
        drop(std::current_exception());
      }
    }
  }

  // Do what can be done without waiting, unless another thread is at it.
  void try_to_complete() {
    std::unique_lock<std::mutex> lock(guard_, std::try_to_lock);
    if (lock.owns_lock()) progress();
  }

 private:
  Phases phases_;
  c10::intrusive_ptr<Options> options_;
  c10::intrusive_ptr<c10d::Backend> rest_;
  std::mutex guard_;
  std::deque<Pending> calls_;  // not done yet; the first has begun
  std::vector<const char*> from_;

  c10d::Backend& rest(const char* what) {
    TORCH_CHECK(rest_, "the shared-memory group has no ", what, "; a group of the backend 'gloo' has");
    return *rest_;
  }

  int root_of(int64_t rank) {
    TORCH_CHECK(0 <= rank && rank < getSize(), "there is no rank ", rank, " in the group");
    return static_cast<int>(rank);
  }

  // --- calls in order ------------------------------------------------------------------------------------------

  c10::intrusive_ptr<c10d::Work> start(const Pending& call) {
    std::lock_guard<std::mutex> lock(guard_);
    call->group_ = c10::intrusive_ptr<SharedMemory>::unsafe_reclaim_from_nonowning(this);
    calls_.push_back(call);
    progress();
    return call;
  }

  void progress() {
    try {
      phases_.check();
      while (!calls_.empty() && advance(*calls_.front())) {
      }
    } catch (...) {
      drop(std::current_exception());
    }
  }

  // Bring the first call on as far as it goes without waiting; whether it is done, and gone.
  bool advance(Operation& call) {
    while (call.part_ < call.parts_.size()) {
      auto& part = call.parts_[call.part_];
      if (!call.is_published_) {
        phases_.begin(call.round_ == 0 ? &part.call : nullptr);
        part.write(call.round_);
        phases_.publish();
        call.is_published_ = true;
      }
      if (!phases_.all_have_come()) return false;
      if (call.round_ == 0) phases_.agree(part.call);
      call.is_published_ = false;
      if (part.read(call.round_)) {
        ++call.round_;
      } else {
        ++call.part_;
        call.round_ = 0;
      }
    }
    end(nullptr);
    return true;
  }

  // Take the first call out.
  void end(const std::exception_ptr& failure) {
    auto call = std::move(calls_.front());
    calls_.pop_front();
    call->end(failure);
  }

  void drop(const std::exception_ptr& failure) {
    while (!calls_.empty()) end(failure);
  }

  // --- collectives ---------------------------------------------------------------------------------------------

  static int32_t code(const at::Tensor& tensor) {
    return static_cast<int32_t>(tensor.scalar_type());
  }

  static Reduce reduction(const at::Tensor& tensor, const c10d::ReduceOp& op) {
    auto found = reduction_of(tensor.scalar_type(), op);
    TORCH_CHECK(
        found != nullptr,
        "the shared-memory backend has no reduction ", static_cast<int>(op.op_), " (torch.distributed.ReduceOp) of ",
        c10::toString(tensor.scalar_type()));
    return found;
  }

  double divisor(const c10d::ReduceOp& op) const {
    return op.op_ == RedOp::AVG ? getSize() : 1.0;
  }

  c10::intrusive_ptr<c10d::Work> reduce_all(const Pending& call, const c10d::ReduceOp& op) {
    for (auto& tensor : call->results_) all_reduce(*call, {call->in_place(tensor), tensor.nbytes()}, tensor, op, -1);
    return start(call);
  }

  // `root`: of a reduction that only one rank needs; -1: all do.
  void all_reduce(Operation& call, Part whole, const at::Tensor& tensor, const c10d::ReduceOp& op, int root) {
    const auto reduce = reduction(tensor, op);
    const Kind kind = root < 0 ? Kind::all_reduce : Kind::reduce;
    const Call said{kind, code(tensor), static_cast<int32_t>(op.op_), root, whole.bytes};
    if (whole.bytes <= kSmall) {
      call.parts_.push_back(
          {said,
           [=, this](size_t) { copy(phases_.slot(getRank()), whole.data, whole.bytes); },
           [=, this, by = divisor(op)](size_t) {
             for (int rank = 0; rank < getSize(); ++rank) from_[rank] = phases_.slot(rank);
             reduce(from_.data(), from_.size(), whole.data, whole.bytes, by);
             return false;
           }});
    } else {
      all_reduce_in_slices(call, said, whole, reduce, divisor(op));
    }
  }

  // Every rank reduces one slice of each chunk. A round brings the summands of a chunk, and the results of the one
  // before: a slot holds a chunk, and behind it a slice.
  void all_reduce_in_slices(
      Operation& call, const Call& said, Part whole, Reduce reduce, double divisor) {
    const size_t size = getSize(), mine = getRank();
    const size_t share_most = phases_.slot_bytes() / (size + 1) / kLine * kLine;
    const size_t chunks = rounds_for(whole.bytes, share_most * size);
    // Chunks of one length, so that the last is no stub; `kLine` is a multiple of every element's size.
    const size_t share = divided_up(divided_up(divided_up(whole.bytes, chunks), size), kLine) * kLine;
    const size_t chunk = share * size;
    auto begins = [=](size_t at, size_t rank) { return at * chunk + rank * share; };
    auto length = [=](size_t at, size_t rank) { return within(whole.bytes, begins(at, rank), share); };
    auto write = [=, this](size_t round) {
      if (round > 0) {
        const size_t start = begins(round - 1, mine), bytes = length(round - 1, mine);
        char* result = phases_.slot(mine) + chunk;
        for (size_t at = 0; at < bytes; at += kBlock) {
          const size_t here = std::min(kBlock, bytes - at);
          for (size_t rank = 0; rank < size; ++rank) from_[rank] = phases_.last_slot(rank) + mine * share + at;
          from_[mine] = whole.data + start + at;
          reduce(from_.data(), size, whole.data + start + at, here, divisor);
          copy(result + at, whole.data + start + at, here);
        }
      }
      if (round == chunks) return;
      for (size_t rank = 0; rank < size; ++rank) {
        if (rank != mine) copy(phases_.slot(mine) + rank * share, whole.data + begins(round, rank), length(round, rank));
      }
    };
    auto read = [=, this](size_t round) {
      for (size_t rank = 0; round > 0 && rank < size; ++rank) {
        if (rank != mine) copy(whole.data + begins(round - 1, rank), phases_.slot(rank) + chunk, length(round - 1, rank));
      }
      return round < chunks;
    };
    call.parts_.push_back({said, write, read});
  }

  // Outputs for what every rank brings; this rank brings `input`.
  std::vector<Part> parts_of(Operation& call, const Tensors& outputs, const at::Tensor& input) {
    TORCH_CHECK(static_cast<int>(outputs.size()) == getSize(), "all_gather and gather take an output for every rank");
    std::vector<Part> parts;
    for (auto& output : outputs) parts.push_back({call.output(output, input), output.nbytes()});
    TORCH_CHECK(
        parts[getRank()].bytes == input.nbytes(),
        "the input holds ", input.nbytes(), " bytes, the output for it ", parts[getRank()].bytes);
    return parts;
  }

  void gather_into(Operation& call, const at::Tensor& output, const at::Tensor& input) {
    TORCH_CHECK(
        output.nbytes() == input.nbytes() * getSize(),
        "all_gather: the output holds ", output.nbytes(), " bytes, ", getSize(), " times the input's ", input.nbytes(), " are needed");
    char* to = call.output(output, input);
    std::vector<Part> parts;
    for (int rank = 0; rank < getSize(); ++rank) parts.push_back({to + rank * input.nbytes(), input.nbytes()});
    gather(call, Kind::all_gather, parts, input, -1);
  }

  // `outputs`: what every rank brings, and where it goes; null: nowhere.
  void gather(Operation& call, Kind kind, const std::vector<Part>& outputs, const at::Tensor& input, int root) {
    const char* mine = call.input(input);
    const size_t bytes = input.nbytes(), slot = phases_.slot_bytes();
    size_t most = 0, all = 0;
    for (auto& output : outputs) {
      most = std::max(most, output.bytes);
      all += output.bytes;
    }
    const size_t rounds = rounds_for(most, slot);
    call.parts_.push_back(
        {{kind, code(input), -1, root, all},
         [=, this](size_t round) {
           copy(phases_.slot(getRank()), mine + round * slot, within(bytes, round * slot, slot));
         },
         [=, this](size_t round) {
           for (int rank = 0; rank < getSize(); ++rank) {
             if (outputs[rank].data == nullptr) continue;
             const char* from = rank == getRank() ? mine + round * slot : phases_.slot(rank);
             copy(outputs[rank].data + round * slot, from, within(outputs[rank].bytes, round * slot, slot));
           }
           return round + 1 < rounds;
         }});
  }

  void reduce_scatter_into(Operation& call, const at::Tensor& output, const at::Tensor& input, const c10d::ReduceOp& op) {
    TORCH_CHECK(
        input.nbytes() == output.nbytes() * getSize(),
        "reduce_scatter: the input holds ", input.nbytes(), " bytes, ", getSize(), " times the output's ", output.nbytes(), " are needed");
    char* data = call.input(input);
    std::vector<Part> parts;
    for (int rank = 0; rank < getSize(); ++rank) parts.push_back({data + rank * output.nbytes(), output.nbytes()});
    reduce_scatter(call, parts, output, input, op);
  }

  void reduce_scatter(
      Operation& call,
      const std::vector<Part>& inputs,
      const at::Tensor& output,
      const at::Tensor& input,
      const c10d::ReduceOp& op) {
    char* to = call.output(output, input);
    const auto reduce = reduction(input, op);
    const size_t mine = getRank(), piece = phases_.slot_bytes() / getSize() / kLine * kLine;
    TORCH_CHECK(
        inputs[mine].bytes == output.nbytes(),
        "reduce_scatter: the output holds ", output.nbytes(), " bytes, the input for it ", inputs[mine].bytes);
    size_t most = 0, all = 0;
    for (auto& part : inputs) {
      most = std::max(most, part.bytes);
      all += part.bytes;
    }
    const size_t rounds = rounds_for(most, piece);
    call.parts_.push_back(
        {{Kind::reduce_scatter, code(input), static_cast<int32_t>(op.op_), -1, all},
         [=, this](size_t round) { write_pieces(inputs, piece, round); },
         [=, this, by = divisor(op)](size_t round) {
           for (int rank = 0; rank < getSize(); ++rank) from_[rank] = phases_.slot(rank) + mine * piece;
           from_[mine] = inputs[mine].data + round * piece;
           reduce(from_.data(), from_.size(), to + round * piece, within(inputs[mine].bytes, round * piece, piece), by);
           return round + 1 < rounds;
         }});
  }

  // A slot holds a piece for every rank.
  void write_pieces(const std::vector<Part>& parts, size_t piece, size_t round, size_t offset = 0) {
    char* slot = phases_.slot(getRank()) + offset;
    for (int rank = 0; rank < getSize(); ++rank) {
      const auto& part = parts[rank];
      if (rank != getRank()) copy(slot + rank * piece, part.data + round * piece, within(part.bytes, round * piece, piece));
    }
  }

  // Parts for (or from) every rank, by sizes of the first dim; none: equal parts.
  std::vector<Part> split(char* data, const at::Tensor& tensor, const std::vector<int64_t>& sizes, const char* which) {
    std::vector<Part> found;
    const int64_t rows = tensor.dim() > 0 ? tensor.size(0) : 1;
    if (sizes.empty()) {
      TORCH_CHECK(
          rows % getSize() == 0, "all_to_all: the first dim of the ", which, " (", rows, ") does not divide by ", getSize());
    }
    TORCH_CHECK(
        sizes.empty() || static_cast<int>(sizes.size()) == getSize(), "all_to_all: a size for every rank is needed for the ", which);
    const size_t row = rows > 0 ? tensor.nbytes() / rows : 0;
    int64_t sum = 0;
    for (int rank = 0; rank < getSize(); ++rank) {
      const int64_t one = sizes.empty() ? rows / getSize() : sizes[rank];
      TORCH_CHECK(one >= 0, "all_to_all: a negative size for the ", which);
      found.push_back({data + sum * row, one * row});
      sum += one;
    }
    TORCH_CHECK(sum == rows, "all_to_all: the sizes sum to ", sum, ", the ", which, " has ", rows, " rows");
    return found;
  }

  // A slot also says what its rank sends to every rank, and expects: all ranks find the same mistakes, and know how
  // many rounds there are.
  void all_to_all(Operation& call, std::vector<Part> sent, std::vector<Part> received, const at::Tensor& input) {
    const size_t size = getSize(), mine = getRank();
    const size_t header = divided_up(2 * size * sizeof(uint64_t), kLine) * kLine;
    const size_t piece = (phases_.slot_bytes() - header) / size / kLine * kLine;
    auto write = [=, this](size_t round) {
      auto* sizes = reinterpret_cast<uint64_t*>(phases_.slot(mine));
      for (size_t rank = 0; rank < size; ++rank) {
        sizes[rank] = sent[rank].bytes;
        sizes[size + rank] = received[rank].bytes;
      }
      write_pieces(sent, piece, round, header);
    };
    auto read = [=, this](size_t round) {
      const uint64_t most = most_sent();
      for (size_t rank = 0; rank < size; ++rank) {
        const char* from = rank == mine ? sent[mine].data + round * piece : phases_.slot(rank) + header + mine * piece;
        copy(received[rank].data + round * piece, from, within(received[rank].bytes, round * piece, piece));
      }
      return (round + 1) * piece < most;
    };
    call.parts_.push_back({{Kind::all_to_all, code(input)}, write, read});
  }

  // The most bytes that a rank sends to another, as the slots say; fails where another number is expected.
  uint64_t most_sent() {
    const size_t size = getSize();
    uint64_t most = 0;
    for (size_t from = 0; from < size; ++from) {
      for (size_t to = 0; to < size; ++to) {
        const auto sends = reinterpret_cast<const uint64_t*>(phases_.slot(from))[to];
        const auto expects = reinterpret_cast<const uint64_t*>(phases_.slot(to))[size + from];
        most = std::max(most, sends);
        if (sends == expects) continue;
        phases_.fail(c10::str(
            "all_to_all: rank ", phases_.name(from), " sends ", sends, " bytes to rank ", phases_.name(to), ", which expects ", expects));
      }
    }
    return most;
  }

  void broadcast(Operation& call, Part whole, const at::Tensor& tensor, int root) {
    const size_t slot = phases_.slot_bytes(), rounds = rounds_for(whole.bytes, slot);
    call.parts_.push_back(
        {{Kind::broadcast, code(tensor), -1, root, whole.bytes},
         [=, this](size_t round) {
           if (getRank() == root) copy(phases_.slot(root), whole.data + round * slot, within(whole.bytes, round * slot, slot));
         },
         [=, this](size_t round) {
           if (getRank() != root) copy(whole.data + round * slot, phases_.slot(root), within(whole.bytes, round * slot, slot));
           return round + 1 < rounds;
         }});
  }

  // `inputs`: for every rank, on the root.
  void scatter(Operation& call, const std::vector<Part>& inputs, Part output, const at::Tensor& tensor, int root) {
    const size_t mine = getRank(), piece = phases_.slot_bytes() / getSize() / kLine * kLine;
    const size_t rounds = rounds_for(output.bytes, piece);
    call.parts_.push_back(
        {{Kind::scatter, code(tensor), -1, root, output.bytes},
         [=, this](size_t round) {
           if (getRank() == root) write_pieces(inputs, piece, round);
         },
         [=, this](size_t round) {
           const char* from = getRank() == root ? inputs[mine].data + round * piece : phases_.slot(root) + mine * piece;
           copy(output.data + round * piece, from, within(output.bytes, round * piece, piece));
           return round + 1 < rounds;
         }});
  }
};

bool Operation::isCompleted() {
  group_->try_to_complete();
  return Work::isCompleted();
}

bool Operation::wait(Milliseconds timeout) {
  group_->complete(*this, timeout);
  if (exception_) std::rethrow_exception(exception_);
  return true;
}

}  // namespace
}  // namespace shardwright

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  using namespace shardwright;
  m.def("bytes", &Phases::bytes, "The length of the memory for a group of `size` ranks with slots of `slot` bytes.");
  m.def(
      "make",
      [](int rank,
         int size,
         int file,
         size_t slot,
         std::chrono::milliseconds timeout,
         std::vector<int64_t> names,
         c10::intrusive_ptr<c10d::Backend> rest) {
        return c10::static_intrusive_pointer_cast<c10d::Backend>(c10::make_intrusive<SharedMemory>(
            rank, size, file, slot, timeout, std::move(names), std::move(rest)));
      },
      "One rank's side of a group.");
  m.def(
      "timeout",
      [](const c10::intrusive_ptr<c10d::Backend>& backend) { return backend->getBackendOptions()->timeout; },
      "How long the collectives of a group wait.");
}
