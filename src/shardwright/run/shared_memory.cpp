// A torch.distributed backend for ranks of one host: collectives through memory that the ranks share (`phases.h`).
//
// A collective is a few rounds, one a phase: write into my slot, meet, read the others' slots (`rounds.h`). What is
// reduced is reduced in rank order, each element by one rank or by all in the same way, so that the bits are the same
// on all ranks and in all runs (`reductions.h`).
//
// A call writes its first round and returns (`operation.h`); the rest is done when somebody waits for it, looks whether
// it is done, or calls for something later (`queue.h`). There are no threads. What this backend has no collective for
// (single messages between two ranks) is left to another backend, where one is given.

#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

#include "queue.h"
#include "reductions.h"
#include "rounds.h"

namespace shardwright {
namespace {

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
