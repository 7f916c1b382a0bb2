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
#include <c10/util/SmallVector.h>
#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/utils/pybind.h>

#include "phases.h"
#include "reductions.h"

namespace shardwright {
namespace {

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

constexpr size_t kSmall = 32 << 10;  // all-reduces up to this many bytes take one round
constexpr size_t kBlock = 16 << 10;  // what is copied once more while it is in the processor's cache

// One collective. `write`: a round's part into my slot; `read`: out of the others' slots, and whether a round follows.
struct Rounds {
  Call call;
  std::function<void(size_t)> write;
  std::function<bool(size_t)> read;
};

using Pointers = c10::SmallVector<const char*, 16>;

// A slot that holds a piece for every rank: the bytes of one.
inline size_t piece_bytes(const Phases& phases, size_t header = 0) {
  return (phases.slot_bytes() - header) / phases.size() / kLine * kLine;
}

inline void write_pieces(Phases& phases, const Parts& parts, size_t piece, size_t round, size_t offset = 0) {
  char* slot = phases.slot(phases.rank()) + offset;
  for (int rank = 0; rank < phases.size(); ++rank) {
    if (rank == phases.rank()) continue;
    copy(slot + rank * piece, parts[rank].data + round * piece, within(parts[rank].bytes, round * piece, piece));
  }
}

// What every rank has at `offset` in its slot.
inline Pointers in_slots(Phases& phases, size_t offset) {
  Pointers found;
  for (int rank = 0; rank < phases.size(); ++rank) found.push_back(phases.slot(rank) + offset);
  return found;
}

namespace rounds {

inline Rounds barrier() {
  return {{Kind::barrier}, [](size_t) {}, [](size_t) { return false; }};
}

// Every rank reduces one slice of each chunk. A round brings the summands of a chunk, and the results of the one
// before: a slot holds a chunk, and behind it a slice.
inline Rounds all_reduce_in_slices(Phases& phases, const Call& call, Part whole, Reduce reduce, double divisor) {
  const size_t size = phases.size(), mine = phases.rank();
  const size_t share_most = phases.slot_bytes() / (size + 1) / kLine * kLine;
  const size_t chunks = rounds_for(whole.bytes, share_most * size);
  // Chunks of one length, so that the last is no stub; `kLine` is a multiple of every element's size.
  const size_t share = divided_up(divided_up(divided_up(whole.bytes, chunks), size), kLine) * kLine;
  const size_t chunk = share * size;
  auto begins = [=](size_t at, size_t rank) { return at * chunk + rank * share; };
  auto length = [=](size_t at, size_t rank) { return within(whole.bytes, begins(at, rank), share); };
  auto write = [=, &phases](size_t round) {
    if (round > 0) {
      const size_t start = begins(round - 1, mine), bytes = length(round - 1, mine);
      char* result = phases.slot(mine) + chunk;
      Pointers from(size);
      for (size_t at = 0; at < bytes; at += kBlock) {
        const size_t here = std::min(kBlock, bytes - at);
        for (size_t rank = 0; rank < size; ++rank) from[rank] = phases.last_slot(rank) + mine * share + at;
        from[mine] = whole.data + start + at;
        reduce(from.data(), size, whole.data + start + at, here, divisor);
        copy(result + at, whole.data + start + at, here);
      }
    }
    if (round == chunks) return;
    for (size_t rank = 0; rank < size; ++rank) {
      if (rank != mine) copy(phases.slot(mine) + rank * share, whole.data + begins(round, rank), length(round, rank));
    }
  };
  auto read = [=, &phases](size_t round) {
    for (size_t rank = 0; round > 0 && rank < size; ++rank) {
      if (rank != mine) copy(whole.data + begins(round - 1, rank), phases.slot(rank) + chunk, length(round - 1, rank));
    }
    return round < chunks;
  };
  return {call, write, read};
}

inline Rounds all_reduce(Phases& phases, Call call, Part whole, Reduce reduce, double divisor) {
  call.bytes = whole.bytes;
  if (whole.bytes > kSmall) return all_reduce_in_slices(phases, call, whole, reduce, divisor);
  return {
      call,
      [=, &phases](size_t) { copy(phases.slot(phases.rank()), whole.data, whole.bytes); },
      [=, &phases](size_t) {
        reduce(in_slots(phases, 0).data(), phases.size(), whole.data, whole.bytes, divisor);
        return false;
      }};
}

// `outputs`: what every rank brings, and where it goes; null: nowhere.
inline Rounds gather(Phases& phases, Call call, Part input, const Parts& outputs) {
  const size_t slot = phases.slot_bytes(), rounds = rounds_for(most_of(outputs), slot);
  call.bytes = sum_of(outputs);
  return {
      call,
      [=, &phases](size_t round) {
        copy(phases.slot(phases.rank()), input.data + round * slot, within(input.bytes, round * slot, slot));
      },
      [=, &phases](size_t round) {
        for (int rank = 0; rank < phases.size(); ++rank) {
          if (outputs[rank].data == nullptr) continue;
          const char* from = rank == phases.rank() ? input.data + round * slot : phases.slot(rank);
          copy(outputs[rank].data + round * slot, from, within(outputs[rank].bytes, round * slot, slot));
        }
        return round + 1 < rounds;
      }};
}

inline Rounds reduce_scatter(
    Phases& phases, Call call, const Parts& inputs, Part output, Reduce reduce, double divisor) {
  const size_t mine = phases.rank(), piece = piece_bytes(phases);
  const size_t rounds = rounds_for(most_of(inputs), piece);
  call.bytes = sum_of(inputs);
  return {
      call,
      [=, &phases](size_t round) { write_pieces(phases, inputs, piece, round); },
      [=, &phases](size_t round) {
        auto from = in_slots(phases, mine * piece);
        from[mine] = inputs[mine].data + round * piece;
        const size_t bytes = within(output.bytes, round * piece, piece);
        reduce(from.data(), from.size(), output.data + round * piece, bytes, divisor);
        return round + 1 < rounds;
      }};
}

// The most bytes that a rank sends to another, as the slots say; fails where another number is expected.
inline uint64_t most_sent(Phases& phases) {
  const size_t size = phases.size();
  uint64_t most = 0;
  for (size_t from = 0; from < size; ++from) {
    for (size_t to = 0; to < size; ++to) {
      const auto sends = reinterpret_cast<const uint64_t*>(phases.slot(from))[to];
      const auto expects = reinterpret_cast<const uint64_t*>(phases.slot(to))[size + from];
      most = std::max(most, sends);
      if (sends == expects) continue;
      phases.fail(c10::str(
          "all_to_all: rank ", phases.name(from), " sends ", sends, " bytes to rank ", phases.name(to),
          ", which expects ", expects));
    }
  }
  return most;
}

// A slot also says what its rank sends to every rank, and expects: all ranks find the same mistakes, and know how
// many rounds there are.
inline Rounds all_to_all(Phases& phases, const Call& call, const Parts& sent, const Parts& received) {
  const size_t size = phases.size(), mine = phases.rank();
  const size_t header = divided_up(2 * size * sizeof(uint64_t), kLine) * kLine;
  const size_t piece = piece_bytes(phases, header);
  auto write = [=, &phases](size_t round) {
    auto* sizes = reinterpret_cast<uint64_t*>(phases.slot(mine));
    for (size_t rank = 0; rank < size; ++rank) {
      sizes[rank] = sent[rank].bytes;
      sizes[size + rank] = received[rank].bytes;
    }
    write_pieces(phases, sent, piece, round, header);
  };
  auto read = [=, &phases](size_t round) {
    const uint64_t most = most_sent(phases);
    for (size_t rank = 0; rank < size; ++rank) {
      const char* from = rank == mine ? sent[mine].data + round * piece : phases.slot(rank) + header + mine * piece;
      copy(received[rank].data + round * piece, from, within(received[rank].bytes, round * piece, piece));
    }
    return (round + 1) * piece < most;
  };
  return {call, write, read};
}

inline Rounds broadcast(Phases& phases, Call call, Part whole) {
  const size_t slot = phases.slot_bytes(), rounds = rounds_for(whole.bytes, slot);
  const int root = call.root;
  call.bytes = whole.bytes;
  return {
      call,
      [=, &phases](size_t round) {
        if (phases.rank() != root) return;
        copy(phases.slot(root), whole.data + round * slot, within(whole.bytes, round * slot, slot));
      },
      [=, &phases](size_t round) {
        const size_t bytes = within(whole.bytes, round * slot, slot);
        if (phases.rank() != root) copy(whole.data + round * slot, phases.slot(root), bytes);
        return round + 1 < rounds;
      }};
}

// `inputs`: for every rank, on the root.
inline Rounds scatter(Phases& phases, Call call, const Parts& inputs, Part output) {
  const size_t mine = phases.rank(), piece = piece_bytes(phases), rounds = rounds_for(output.bytes, piece);
  const int root = call.root;
  call.bytes = output.bytes;
  return {
      call,
      [=, &phases](size_t round) {
        if (phases.rank() == root) write_pieces(phases, inputs, piece, round);
      },
      [=, &phases](size_t round) {
        const char* from = phases.rank() == root ? inputs[mine].data + round * piece : phases.slot(root) + mine * piece;
        copy(output.data + round * piece, from, within(output.bytes, round * piece, piece));
        return round + 1 < rounds;
      }};
}

}  // namespace rounds

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

using Options = c10::intrusive_ptr<c10d::Backend::Options>;

// The operations of a group that are not done, in the order of their calls.
class Queue : public c10::intrusive_ptr_target {
 public:
  // `options`: whose timeout holds where a call names none. For the others, see `Phases`.
  Queue(int rank, int size, int file, size_t slot, std::vector<int64_t> names, Options options)
      : phases_(rank, size, file, slot, std::move(names)), options_(std::move(options)) {}

  Phases& phases() {
    return phases_;
  }

  void start(const Pending& call) {
    std::lock_guard<std::mutex> lock(guard_);
    call->queue_ = c10::intrusive_ptr<Queue>::unsafe_reclaim_from_nonowning(this);
    calls_.push_back(call);
    progress();
  }

  // Do all of a call, and of those before it.
  void complete(Operation& call, Milliseconds timeout) {
    std::lock_guard<std::mutex> lock(guard_);
    if (timeout.count() <= 0) timeout = call.timeout_.count() > 0 ? call.timeout_ : options_->timeout;
    while (!call.is_done_) {
      try {
        if (!advance()) phases_.await_all(calls_.front()->kind(), timeout);
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

  void shutdown() {
    std::lock_guard<std::mutex> lock(guard_);
    drop(std::make_exception_ptr(std::runtime_error("the process group was shut down")));
  }

 private:
  Phases phases_;
  Options options_;
  std::mutex guard_;
  std::deque<Pending> calls_;  // the first has begun

  void progress() {
    try {
      phases_.check();
      while (!calls_.empty() && advance()) {
      }
    } catch (...) {
      drop(std::current_exception());
    }
  }

  // Bring the first call on as far as it goes without waiting; whether it is done, and gone.
  bool advance() {
    if (!calls_.front()->advance(phases_)) return false;
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
};

inline bool Operation::isCompleted() {
  queue_->try_to_complete();
  return Work::isCompleted();
}

inline bool Operation::wait(Milliseconds timeout) {
  queue_->complete(*this, timeout);
  if (exception_) std::rethrow_exception(exception_);
  return true;
}

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
        options_(c10::make_intrusive<Options>("shardwright", timeout)),
        queue_(c10::make_intrusive<Queue>(rank, size, file, slot, std::move(names), options_)),
        rest_(std::move(rest)) {
    TORCH_CHECK(
        slot % kLine == 0 && slot >= 2 * kSmall && slot / kLine >= 2 * static_cast<size_t>(size),
        "odd slot size ", slot);
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
    return phases().number();
  }

  void shutdown() override {
    queue_->shutdown();
    if (rest_) rest_->shutdown();
  }

  c10::intrusive_ptr<c10d::Work> allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
    return reduce_all(called(c10d::OpType::ALLREDUCE, options.timeout, tensors), tensors, options.reduceOp);
  }

  c10::intrusive_ptr<c10d::Work> allreduce_coalesced(
      Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
    return reduce_all(called(c10d::OpType::ALLREDUCE_COALESCED, options.timeout, tensors), tensors, options.reduceOp);
  }

  c10::intrusive_ptr<c10d::Work> reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
    auto call = called(c10d::OpType::REDUCE, options.timeout, tensors);
    const int root = root_of(options.rootRank);
    for (auto& tensor : tensors) {
      // The tensors of other ranks stay as they are.
      auto whole = getRank() == root ? call->in_place(tensor) : call->input(tensor.clone());
      call->add(reduced({Kind::reduce, code(tensor), code(options.reduceOp), root}, whole, tensor, options.reduceOp));
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
      auto parts = parts_of(*call, outputs[i], inputs[i]);
      call->add(rounds::gather(phases(), {Kind::all_gather, code(inputs[i])}, call->input(inputs[i]), parts));
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
                                   : Parts(getSize(), Part{nullptr, inputs[0].nbytes()});
    call->add(rounds::gather(phases(), {Kind::gather, code(inputs[0]), -1, root}, call->input(inputs[0]), parts));
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> scatter(
      Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override {
    TORCH_CHECK(outputs.size() == 1, "scatter takes one output");
    const int root = root_of(options.rootRank);
    auto call = called(c10d::OpType::SCATTER, options.timeout, outputs);
    Parts parts;
    if (getRank() == root) {
      TORCH_CHECK(static_cast<int>(inputs.at(0).size()) == getSize(), "scatter takes an input for every rank");
      for (auto& input : inputs[0]) {
        TORCH_CHECK(input.nbytes() == outputs[0].nbytes(), "scatter: an input has another size than the output");
        parts.push_back(call->input(input));
      }
    }
    auto output = call->output(outputs[0], parts.empty() ? outputs[0] : inputs[0][0]);
    call->add(rounds::scatter(phases(), {Kind::scatter, code(outputs[0]), -1, root}, parts, output));
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
      Parts parts;
      for (auto& input : inputs[i]) parts.push_back(call->input(input));
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
    auto sent = parts_by_size(call->input(input), input, input_splits, getSize(), "input");
    auto received = parts_by_size(call->output(output, input), output, output_splits, getSize(), "output");
    call->add(rounds::all_to_all(phases(), {Kind::all_to_all, code(input)}, sent, received));
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> alltoall(
      Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options) override {
    TORCH_CHECK(
        outputs.size() == inputs.size() && static_cast<int>(inputs.size()) == getSize(),
        "all_to_all takes a tensor for every rank");
    auto call = called(c10d::OpType::ALLTOALL, options.timeout, outputs);
    Parts sent, received;
    for (auto& input : inputs) sent.push_back(call->input(input));
    for (auto& output : outputs) received.push_back(call->output(output, inputs[0]));
    call->add(rounds::all_to_all(phases(), {Kind::all_to_all, code(inputs[0])}, sent, received));
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
    auto call = called(c10d::OpType::BROADCAST, options.timeout, tensors);
    for (auto& tensor : tensors) {
      const Call same{Kind::broadcast, code(tensor), -1, root_of(options.rootRank)};
      call->add(rounds::broadcast(phases(), same, call->in_place(tensor)));
    }
    return start(call);
  }

  c10::intrusive_ptr<c10d::Work> barrier(const c10d::BarrierOptions& options) override {
    auto call = called(c10d::OpType::BARRIER, options.timeout, {});
    call->add(rounds::barrier());
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

 private:
  c10::intrusive_ptr<Options> options_;
  c10::intrusive_ptr<Queue> queue_;
  c10::intrusive_ptr<c10d::Backend> rest_;

  Phases& phases() {
    return queue_->phases();
  }

  c10d::Backend& rest(const char* what) {
    TORCH_CHECK(rest_, "the shared-memory group has no ", what, "; a group of the backend 'gloo' has");
    return *rest_;
  }

  int root_of(int64_t rank) {
    TORCH_CHECK(0 <= rank && rank < getSize(), "there is no rank ", rank, " in the group");
    return static_cast<int>(rank);
  }

  Pending called(c10d::OpType type, const Milliseconds& timeout, const Tensors& results) {
    return c10::make_intrusive<Operation>(getRank(), type, timeout, results);
  }

  c10::intrusive_ptr<c10d::Work> start(const Pending& call) {
    queue_->start(call);
    return call;
  }

  // --- the parts of tensors ------------------------------------------------------------------------------------

  static int32_t code(const at::Tensor& tensor) {
    return static_cast<int32_t>(tensor.scalar_type());
  }

  static int32_t code(const c10d::ReduceOp& op) {
    return static_cast<int32_t>(op.op_);
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

  Rounds reduced(const Call& call, Part whole, const at::Tensor& tensor, const c10d::ReduceOp& op) {
    return rounds::all_reduce(phases(), call, whole, reduction(tensor, op), divisor(op));
  }

  c10::intrusive_ptr<c10d::Work> reduce_all(const Pending& call, Tensors& tensors, const c10d::ReduceOp& op) {
    for (auto& tensor : tensors) {
      call->add(reduced({Kind::all_reduce, code(tensor), code(op)}, call->in_place(tensor), tensor, op));
    }
    return start(call);
  }

  // Outputs for what every rank brings; this rank brings `input`.
  Parts parts_of(Operation& call, const Tensors& outputs, const at::Tensor& input) {
    TORCH_CHECK(static_cast<int>(outputs.size()) == getSize(), "all_gather and gather take an output for every rank");
    Parts parts;
    for (auto& output : outputs) parts.push_back(call.output(output, input));
    TORCH_CHECK(
        parts[getRank()].bytes == input.nbytes(),
        "the input holds ", input.nbytes(), " bytes, the output for it ", parts[getRank()].bytes);
    return parts;
  }

  void gather_into(Operation& call, const at::Tensor& output, const at::Tensor& input) {
    TORCH_CHECK(
        output.nbytes() == input.nbytes() * getSize(),
        "all_gather: the output holds ", output.nbytes(), " bytes, ", getSize(), " times the input's ", input.nbytes(),
        " are needed");
    auto parts = equal_parts(call.output(output, input), input.nbytes(), getSize());
    call.add(rounds::gather(phases(), {Kind::all_gather, code(input)}, call.input(input), parts));
  }

  void reduce_scatter_into(
      Operation& call, const at::Tensor& output, const at::Tensor& input, const c10d::ReduceOp& op) {
    TORCH_CHECK(
        input.nbytes() == output.nbytes() * getSize(),
        "reduce_scatter: the input holds ", input.nbytes(), " bytes, ", getSize(), " times the output's ",
        output.nbytes(), " are needed");
    auto parts = equal_parts(call.input(input), output.nbytes(), getSize());
    reduce_scatter(call, parts, output, input, op);
  }

  void reduce_scatter(
      Operation& call,
      const Parts& inputs,
      const at::Tensor& output,
      const at::Tensor& input,
      const c10d::ReduceOp& op) {
    const auto reduce = reduction(input, op);
    const auto to = call.output(output, input);
    TORCH_CHECK(
        inputs[getRank()].bytes == to.bytes,
        "reduce_scatter: the output holds ", to.bytes, " bytes, the input for it ", inputs[getRank()].bytes);
    const Call same{Kind::reduce_scatter, code(input), code(op)};
    call.add(rounds::reduce_scatter(phases(), same, inputs, to, reduce, divisor(op)));
  }
};

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
