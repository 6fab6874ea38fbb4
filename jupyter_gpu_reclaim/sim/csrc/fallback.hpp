// Every operator without a kernel of its own: the CPU's kernel, run on the device's bytes where they lie.
//
// at::native::cpu_fallback works on copies and brings back only the writes that the schema announces; batch norm's
// running statistics are not announced and would be lost silently. Aliasing keeps them, and is faster.
#pragma once
#include <torch/library.h>

#include "sparse.hpp"

namespace simgpu {

// The same bytes, seen as a CPU tensor. The caller holds an Access while it uses them.
inline Tensor host_view(const Tensor& t) {
  if (!t.is_privateuseone()) return t;
  auto options = t.options().device(at::kCPU).requires_grad(false);
  Tensor view = at::from_blob(t.numel() ? t.data_ptr() : nullptr, t.sizes(), t.strides(), options);
  if (t.is_neg()) view = view._neg_view();
  if (t.is_conj()) view = view._conj();
  return view;
}

// Wraps one operator: orders it after the stream's waiting copies, opens the memory, notes the busy time.
struct Operator {
  DeviceIndex device;
  Access access;
  uint64_t began = board_now_us();
  explicit Operator(DeviceIndex d) : device(d) {
    connection().refuse_forked();
    drain(d);
  }
  ~Operator() {
    if (device >= 0 && connection().row[device]) board_note_busy(connection().row[device], began, board_now_us(), 0);
  }
};

struct Loan { Tensor lender, alias; void* at; bool written; };
struct SparseLoan { Tensor lender, alias; bool written; };

struct Fallback {
  const c10::OperatorHandle& op;
  torch::jit::Stack* stack;
  const c10::FunctionSchema& schema = op.schema();
  c10::SmallVector<Loan, 8> loans;
  std::vector<SparseLoan> sparse_loans;
  c10::DispatchKeySet keys{c10::DispatchKey::CPU};
  std::optional<c10::Device> asked, device;
  bool host_operand = false;

  // Operators that CUDA, too, lets reach across devices.
  bool may_mix() const {
    const auto& name = schema.name();
    for (auto* part : {"index", "pack_padded", "copy"}) if (name.find(part) != std::string::npos) return true;
    return false;
  }
  void same_device(c10::Device other) const {
    TORCH_CHECK(may_mix(), "Expected all tensors to be on the same device, but found at least two devices, ",
                device->str(), " and ", other.str(), "! (when running ", schema.name(), ")");
  }
  Tensor lend(const Tensor& t, bool written) {
    if (!t.defined() || !t.is_privateuseone()) {
      host_operand |= t.defined() && t.is_cpu() && t.dim() > 0;
      return t;
    }
    if (is_sparse(t)) return lend_sparse(t, written);
    for (auto& loan : loans) if (loan.lender.is_same(t)) {
      loan.written |= written;
      return loan.alias;
    }
    if (!device) device = t.device();
    else if (*device != t.device() && t.dim() > 0) same_device(t.device());
    void* at = t.numel() ? t.data_ptr() : nullptr;
    auto options = t.options().device(at::kCPU).requires_grad(false);
    auto maker = at::for_blob(at, t.sizes());
    maker.strides(t.strides()).options(options);
    if (written) maker.allocator(at::getCPUAllocator()).resizeable_storage();
    Tensor alias = maker.make_tensor();
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) alias.unsafeGetTensorImpl()->set_wrapped_number(true);
    loans.push_back({t, alias, alias.numel() ? alias.data_ptr() : nullptr, written});
    return alias;
  }
  // Its parts are lent one by one; what the alias has become in the end, the lender becomes.
  Tensor lend_sparse(const Tensor& t, bool written) {
    keys = keys | c10::DispatchKeySet(is_compressed(t.layout()) ? c10::DispatchKey::SparseCsrCPU : c10::DispatchKey::SparseCPU);
    for (auto& loan : sparse_loans) if (loan.lender.is_same(t)) {
      loan.written |= written;
      return loan.alias;
    }
    std::vector<Tensor> parts;
    for (auto& part : parts_of(t)) parts.push_back(lend(part, written));
    sparse_loans.push_back({t, around(parts, t), written});
    return sparse_loans.back().alias;
  }
  void lend_arguments(size_t base) {
    for (size_t i = 0; i < schema.arguments().size(); ++i) {
      auto& v = (*stack)[base + i];
      auto* alias = schema.arguments()[i].alias_info();
      bool written = alias && alias->isWrite();
      if (v.isTensor()) v = lend(v.toTensor(), written);
      else if (v.isTensorList()) {
        c10::List<Tensor> list;
        for (const Tensor& t : v.toTensorList()) list.push_back(lend(t, written));
        v = list;
      } else if (v.isOptionalTensorList()) {
        c10::List<std::optional<Tensor>> list;
        for (std::optional<Tensor> t : v.toOptionalTensorList())
          list.push_back(t && t->defined() ? std::optional<Tensor>(lend(*t, written)) : t);
        v = list;
      } else if (v.isDevice()) {
        asked = v.toDevice();
        v = c10::IValue(c10::Device(at::kCPU));
      }
    }
    if (host_operand && !loans.empty()) same_device(c10::Device(at::kCPU));
  }
  // A result back on the device: the lender itself, a view of it, or fresh memory.
  Tensor settle(const Tensor& t) {
    if (!t.defined() || !t.is_cpu()) return t;
    if (is_sparse(t)) return settle_sparse(t);
    for (auto& loan : loans) if (loan.alias.is_same(t)) return loan.lender;
    if (t.numel())
      for (auto& loan : loans)
        if (loan.alias.has_storage() && t.storage().is_alias_of(loan.alias.storage()))
          return loan.lender.as_strided(t.sizes(), t.strides(), loan.lender.storage_offset() + t.storage_offset());
    return t.to(*device);
  }
  std::vector<Tensor> settled_parts(const Tensor& t) {
    std::vector<Tensor> parts;
    for (auto& part : parts_of(t)) parts.push_back(settle(part));
    return parts;
  }
  Tensor settle_sparse(const Tensor& t) {
    for (auto& loan : sparse_loans) if (loan.alias.is_same(t)) return loan.lender;
    return around(settled_parts(t), t);
  }
  // An out= argument that the kernel resized: its bytes are elsewhere now.
  void settle_resized() {
    for (auto& loan : loans) {
      if (!loan.written) continue;
      void* at = loan.alias.numel() ? loan.alias.data_ptr() : nullptr;
      if (at == loan.at && loan.alias.sizes() == loan.lender.sizes()) continue;
      loan.lender.resize_(loan.alias.sizes());
      loan.lender.copy_(loan.alias);
    }
    for (auto& loan : sparse_loans) if (loan.written) become(loan.lender, settled_parts(loan.alias), loan.alias);
  }
  void run() {
    lend_arguments(stack->size() - schema.arguments().size());
    if (!device && asked && asked->type() == kSimGpu) device = c10::Device(kSimGpu, Guard::or_current(asked->index()));
    Operator scope(device ? device->index() : current_device);
    if (device) connection().fail_if_scripted("operator", device->index());
    op.redispatchBoxed(keys, stack);
    if (!device) return;
    settle_resized();
    for (size_t i = stack->size() - schema.returns().size(); i < stack->size(); ++i) {
      auto& v = (*stack)[i];
      if (v.isTensor()) v = settle(v.toTensor());
      else if (v.isTensorList()) {
        c10::List<Tensor> list;
        for (const Tensor& t : v.toTensorList()) list.push_back(settle(t));
        v = list;
      }
    }
  }
};
inline void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) { Fallback{op, stack}.run(); }

// Every operator that the CPU has a kernel of its own for under `cpu`, and that has none here yet, falls back to that one:
// torch's generic decompositions, which would come first, know dense tensors only.
inline void take_kernels_of(c10::DispatchKey cpu, c10::DispatchKey here, torch::Library& m) {
  auto& dispatcher = c10::Dispatcher::singleton();
  for (auto& name : dispatcher.getRegistrationsForDispatchKey(cpu)) {
    auto op = dispatcher.findOp(name);
    if (op && name.getNamespace() == "aten" && !op->hasKernelForDispatchKey(here))
      m.impl(c10::toString(name).c_str(), torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
}
}  // namespace simgpu
