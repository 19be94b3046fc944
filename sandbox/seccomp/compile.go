package seccomp

import (
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"liege/sandbox/stage"
)

// The offsets of struct seccomp_data.
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16
)

// x32Bit is __X32_SYSCALL_BIT.
const x32Bit = 0x4000_0000

// maxProgram is BPF_MAXINSNS.
const maxProgram = 4096

// Opcodes of classic BPF.
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opRet  = unix.BPF_RET | unix.BPF_K
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opEq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGt   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opGe   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
)

// miss marks a jump to the end of the block that a condition belongs to.
const miss = 255

func load(off uint32) stage.Filter { return stage.Filter{Code: opLoad, K: off} }
func ret(v verdict) stage.Filter   { return stage.Filter{Code: opRet, K: uint32(v)} }

// compile makes the program: architecture, ABI, then a binary search.
func compile(m *machine, rules map[string][]rule, other verdict) ([]stage.Filter, error) {
	prog := []stage.Filter{
		load(offArch),
		{Code: opEq, K: m.audit, Jt: 1},
		ret(kill),
		load(offNumber),
	}
	if m.x32 {
		prog = append(prog,
			stage.Filter{Code: opGe, K: x32Bit, Jf: 3},
			stage.Filter{Code: opEq, K: ^uint32(0), Jf: 1}, // syscall(-1) is a question, not an ABI
			ret(nosys),
			ret(kill))
	}
	prog = append(prog, search(leaves(m, rules, other))...)
	if len(prog) > maxProgram {
		return nil, fmt.Errorf("seccomp: the program has %d instructions; the kernel takes %d", len(prog), maxProgram)
	}
	return prog, nil
}

// search finds the leaf of the number in the accumulator.
func search(ls []leaf) []stage.Filter {
	if len(ls) == 1 {
		return ls[0].code()
	}
	half := len(ls) / 2
	left, right := search(ls[:half]), search(ls[half:])
	var prog []stage.Filter
	if len(left) <= 255 {
		prog = []stage.Filter{{Code: opGe, K: ls[half].lo, Jt: uint8(len(left))}}
	} else {
		prog = []stage.Filter{{Code: opGe, K: ls[half].lo, Jf: 1}, {Code: opJump, K: uint32(len(left))}}
	}
	return append(append(prog, left...), right...)
}

func (l leaf) code() []stage.Filter {
	var prog []stage.Filter
	for _, r := range l.rules {
		prog = append(prog, r.code()...)
	}
	return append(prog, ret(l.other))
}

// code returns then if all conditions hold, else falls out of its end.
func (r rule) code() []stage.Filter {
	var prog []stage.Filter
	for _, c := range r.conds {
		prog = append(prog, c.code()...)
	}
	prog = append(prog, ret(r.then))
	for i := range prog {
		to := uint8(len(prog) - i - 1)
		if isJump(prog[i]) && prog[i].Jt == miss {
			prog[i].Jt = to
		}
		if isJump(prog[i]) && prog[i].Jf == miss {
			prog[i].Jf = to
		}
	}
	return prog
}

func isJump(f stage.Filter) bool { return f.Code&7 == unix.BPF_JMP }

// code compares all 64 bits of an argument, though many calls look at 32: what
// does not match is refused.
func (c cond) code() []stage.Filter {
	low := offArgs + 8*uint32(c.arg)
	high := low + 4 // both architectures are little endian
	vl, vh := uint32(c.value), uint32(c.value>>32)
	switch c.op {
	case specs.OpMaskedEqual:
		return []stage.Filter{
			load(high), {Code: opAnd, K: uint32(c.mask >> 32)}, {Code: opEq, K: vh, Jf: miss},
			load(low), {Code: opAnd, K: uint32(c.mask)}, {Code: opEq, K: vl, Jf: miss},
		}
	case specs.OpLessThan, specs.OpLessEqual:
		past := uint16(opGe)
		if c.op == specs.OpLessEqual {
			past = opGt
		}
		return []stage.Filter{
			load(high), {Code: opGt, K: vh, Jt: miss}, {Code: opEq, K: vh, Jf: 2},
			load(low), {Code: past, K: vl, Jt: miss},
		}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		from := uint16(opGt)
		if c.op == specs.OpGreaterEqual {
			from = opGe
		}
		return []stage.Filter{
			load(high), {Code: opGt, K: vh, Jt: 3}, {Code: opEq, K: vh, Jf: miss},
			load(low), {Code: from, K: vl, Jf: miss},
		}
	case specs.OpNotEqual:
		return []stage.Filter{
			load(high), {Code: opEq, K: vh, Jf: 2},
			load(low), {Code: opEq, K: vl, Jt: miss},
		}
	}
	return []stage.Filter{
		load(high), {Code: opEq, K: vh, Jf: miss},
		load(low), {Code: opEq, K: vl, Jf: miss},
	}
}
