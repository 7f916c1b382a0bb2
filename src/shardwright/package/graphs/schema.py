"""What may be in a graph file: torch's archive schema, cut down to what sharded programs need, as strict types.

Decoding checks everything and writes anew what torch would interpret: sizes (`size_expressions`), nestings (`trees`),
traces (`texts`). What decodes can be encoded and given to torch; unknown fields, kinds and operators raise. The names
of structs and fields are torch's (`torch/_export/serde/schema.py`, major version 8).
"""
# ruff: noqa: D101 - the names are torch's, and most say all there is to say

from typing import Annotated, Literal, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from shardwright.package.graphs.operators import check_operator
from shardwright.package.graphs.size_expressions import RANGED, reformat_size
from shardwright.package.graphs.texts import PLAIN, is_plain, reformat_message, reformat_metadata
from shardwright.package.graphs.trees import TypeName, reformat_tree

Name: TypeAlias = Annotated[str, Meta(pattern=r"^[^\W\d]\w*\Z", max_length=1000)]
"""A name of a node or an argument: it becomes one in Python code."""

Path: TypeAlias = Annotated[str, Meta(pattern=PLAIN, max_length=4000)]
"""A module's or a tensor's path."""

_MESSAGES = ("msg", "assert_msg")
"""Arguments that a failed check of the user's own says."""

Int: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Enumerated: TypeAlias = Annotated[int, Meta(ge=0, le=64)]
Float: TypeAlias = float | Literal["Infinity", "-Infinity", "NaN"]
Symbol: TypeAlias = Annotated[str, Meta(pattern=RANGED)]


class Part(Struct, gc=False, forbid_unknown_fields=True):
    """A struct with these fields and no others."""


class Kinds(Struct, gc=False, forbid_unknown_fields=True):
    """A union as torch writes it: one field, named after the kind of its value."""

    def __post_init__(self) -> None:
        given = [field for field in self.__struct_fields__ if getattr(self, field) is not UNSET]
        if len(given) != 1:
            raise ValueError(f"one kind of value is needed, not {given}")


class Device(Part):
    type: Annotated[str, Meta(pattern=r"^[a-z]{1,20}\Z")]
    index: Annotated[int, Meta(ge=0, le=127)] | None = None


class SymExprHint(Kinds):
    as_int: Int | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymExpr(Part):
    expr_str: str
    hint: SymExprHint | None = None

    def __post_init__(self) -> None:
        self.expr_str = reformat_size(self.expr_str)


class SymInt(Kinds):
    as_expr: SymExpr | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloat(Kinds):
    as_expr: SymExpr | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBool(Kinds):
    as_expr: SymExpr | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorMeta(Part):
    dtype: Enumerated
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Literal[7]
    """Strided: no other layout can be sharded."""


class SymIntArgument(Kinds):
    as_name: Name | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloatArgument(Kinds):
    as_name: Name | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBoolArgument(Kinds):
    as_name: Name | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorArgument(Part):
    name: Name


class OptionalTensorArgument(Kinds):
    as_tensor: TensorArgument | UnsetType = UNSET
    as_none: Literal[True] | UnsetType = UNSET


class ComplexValue(Part):
    real: Float
    imag: Float


class Value(Kinds):
    """What enters and leaves graphs: tensors, numbers, constants."""

    as_none: Literal[True] | UnsetType = UNSET
    as_tensor: TensorArgument | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_complex: ComplexValue | UnsetType = UNSET
    as_sym_int: SymIntArgument | UnsetType = UNSET
    as_sym_float: SymFloatArgument | UnsetType = UNSET
    as_sym_bool: SymBoolArgument | UnsetType = UNSET


class Result(Kinds):
    """What an operator gives."""

    as_none: Literal[True] | UnsetType = UNSET
    as_tensor: TensorArgument | UnsetType = UNSET
    as_tensors: list[TensorArgument] | UnsetType = UNSET
    as_sym_int: SymIntArgument | UnsetType = UNSET
    as_sym_ints: list[SymIntArgument] | UnsetType = UNSET
    as_sym_float: SymFloatArgument | UnsetType = UNSET
    as_sym_bool: SymBoolArgument | UnsetType = UNSET


class Argument(Value):
    """What an operator takes."""

    as_tensors: list[TensorArgument] | UnsetType = UNSET
    as_ints: list[Int] | UnsetType = UNSET
    as_floats: list[Float] | UnsetType = UNSET
    as_strings: list[str] | UnsetType = UNSET
    as_bools: list[bool] | UnsetType = UNSET
    as_sym_ints: list[SymIntArgument] | UnsetType = UNSET
    as_sym_floats: list[SymFloatArgument] | UnsetType = UNSET
    as_sym_bools: list[SymBoolArgument] | UnsetType = UNSET
    as_scalar_type: Enumerated | UnsetType = UNSET
    as_memory_format: Enumerated | UnsetType = UNSET
    as_layout: Enumerated | UnsetType = UNSET
    as_device: Device | UnsetType = UNSET
    as_graph: "GraphArgument | UnsetType" = UNSET
    as_operator: str | UnsetType = UNSET
    as_optional_tensors: list[OptionalTensorArgument] | UnsetType = UNSET
    as_optional_tensor: OptionalTensorArgument | UnsetType = UNSET
    as_nested_tensors: list[list[TensorArgument]] | UnsetType = UNSET
    as_int_lists: list[list[Int]] | UnsetType = UNSET
    as_float_lists: list[list[Float]] | UnsetType = UNSET
    as_string_to_argument: "dict[Name, Argument] | UnsetType" = UNSET

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.as_operator, str):
            check_operator(self.as_operator)

    def texts(self) -> list[str]:
        """Every text in it."""
        found = [self.as_string] if isinstance(self.as_string, str) else []
        found += self.as_strings if isinstance(self.as_strings, list) else []
        inner = self.as_string_to_argument
        return found + [text for one in inner.values() for text in one.texts()] if isinstance(inner, dict) else found


class NamedArgument(Part):
    name: Annotated[str, Meta(pattern=r"^([^\W\d]\w*)?\Z", max_length=1000)]
    """Higher-order operators take arguments without names."""

    arg: Argument
    kind: Annotated[int, Meta(ge=0, le=2)] | None = None

    def __post_init__(self) -> None:
        if self.name in _MESSAGES and isinstance(self.arg.as_string, str):
            self.arg.as_string = reformat_message(self.arg.as_string)
        odd = [text for text in self.arg.texts() if not is_plain(text)]
        if odd:
            raise ValueError(f"the text {odd[0][:100]!r} is not one that an operator of a sharded graph takes")


class Node(Part):
    target: str
    inputs: list[NamedArgument]
    outputs: list[Result]
    metadata: dict[str, str]
    is_hop_single_tensor_return: bool | None = None
    name: Name | None = None

    def __post_init__(self) -> None:
        check_operator(self.target)
        self.metadata = reformat_metadata(self.metadata)


class Graph(Part):
    inputs: list[Value]
    outputs: list[Value]
    nodes: list[Node]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, SymInt]
    sym_bool_values: dict[Name, SymBool]
    is_single_tensor_return: bool = False
    custom_obj_values: dict[Name, None] = {}
    """Always empty: objects of classes of their own are not part of a sharded program."""
    sym_float_values: dict[Name, SymFloat] = {}


class GraphArgument(Part):
    name: Name
    graph: Graph


class UserInputSpec(Part):
    arg: Value


class ConstantValue(Kinds):
    as_none: Literal[True] | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class InputToConstantInputSpec(Part):
    name: Name
    value: ConstantValue


class InputToParameterSpec(Part):
    arg: TensorArgument
    parameter_name: Path


class InputToBufferSpec(Part):
    arg: TensorArgument
    buffer_name: Path
    persistent: bool


class InputToTensorConstantSpec(Part):
    arg: TensorArgument
    tensor_constant_name: Path


class InputSpec(Kinds):
    user_input: UserInputSpec | UnsetType = UNSET
    parameter: InputToParameterSpec | UnsetType = UNSET
    buffer: InputToBufferSpec | UnsetType = UNSET
    tensor_constant: InputToTensorConstantSpec | UnsetType = UNSET
    constant_input: InputToConstantInputSpec | UnsetType = UNSET


class UserOutputSpec(Part):
    arg: Value


class TensorOutputSpec(Part):
    arg: TensorArgument


class BufferMutationSpec(Part):
    arg: TensorArgument
    buffer_name: Path


class ParameterSpec(Part):
    arg: TensorArgument
    parameter_name: Path


class UserInputSpecOfOutput(Part):
    arg: TensorArgument
    user_input_name: Name


class OutputSpec(Kinds):
    user_output: UserOutputSpec | UnsetType = UNSET
    loss_output: TensorOutputSpec | UnsetType = UNSET
    buffer_mutation: BufferMutationSpec | UnsetType = UNSET
    gradient_to_parameter: ParameterSpec | UnsetType = UNSET
    gradient_to_user_input: UserInputSpecOfOutput | UnsetType = UNSET
    user_input_mutation: UserInputSpecOfOutput | UnsetType = UNSET
    parameter_mutation: ParameterSpec | UnsetType = UNSET


class GraphSignature(Part):
    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class RangeConstraint(Part):
    min_val: Int | None
    max_val: Int | None


class ModuleCallSignature(Part):
    inputs: list[Value]
    outputs: list[Value]
    in_spec: str
    out_spec: str
    forward_arg_names: list[Name] | None = None

    def __post_init__(self) -> None:
        self.in_spec = reformat_tree(self.in_spec, of_arguments=True)
        self.out_spec = reformat_tree(self.out_spec, of_arguments=False)


class ModuleCallEntry(Part):
    fqn: Path
    signature: ModuleCallSignature | None = None


class NamedTupleDef(Part):
    field_names: list[Name]


class GraphModule(Part):
    graph: Graph
    signature: GraphSignature
    module_call_graph: list[ModuleCallEntry]
    metadata: dict[str, str] = {}
    treespec_namedtuple_fields: dict[TypeName, NamedTupleDef] = {}

    def __post_init__(self) -> None:
        # Notes of users and of torch's passes, which nothing here reads.
        self.metadata = {}


class SchemaVersion(Part):
    major: Literal[8]
    minor: Annotated[int, Meta(ge=0, le=1000)]


class ExportedProgram(Part):
    graph_module: GraphModule
    opset_version: dict[Name, Annotated[int, Meta(ge=0, le=10**6)]]
    range_constraints: dict[Symbol, RangeConstraint]
    schema_version: SchemaVersion
    verifiers: list[Literal["ATEN", "TRAINING"]] = []
    torch_version: Annotated[str, Meta(pattern=r"^[\w.+<=]{1,60}\Z")] = ""
    guards_code: list[str] = []

    def __post_init__(self) -> None:
        # torch checks them only beside example inputs; what inputs must be is in their specs and the ranges of sizes.
        self.guards_code = []


class MetaDevice(Part):
    type: Literal["meta"]
    index: None = None


class MetaTensor(Part):
    """A tensor without data: reading one allocates nothing."""

    dtype: Enumerated
    sizes: list["WholeSize"]
    requires_grad: bool
    device: MetaDevice
    strides: list["WholeSize"]
    storage_offset: "WholeSize"
    layout: Literal[7]


class WholeSize(Part):
    as_int: Annotated[int, Meta(ge=0, le=2**62)]


class PayloadMeta(Part):
    path_name: Annotated[str, Meta(pattern=r"^(weight|tensor)_\d{1,9}\Z")]
    is_param: bool
    use_pickle: Literal[False]
    tensor_meta: MetaTensor


class PayloadConfig(Part):
    config: dict[Path, PayloadMeta]
