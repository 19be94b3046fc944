package sandbox

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// guardName is the name the kernel shows for the guard's programs.
const guardName = "liege_guard"

// allowMulti is BPF_F_ALLOW_MULTI: programs of the cgroups above run too.
const allowMulti = 1 << 1

var guardTypes = []ebpf.AttachType{
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind,
}

// deny is a program that refuses.
func deny() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
}

// rootOnly is a program that refuses everybody but root.
func rootOnly() asm.Instructions {
	return asm.Instructions{
		asm.FnGetCurrentUidGid.Call(),
		asm.Mov.Reg32(asm.R0, asm.R0), // the uid
		asm.JEq.Imm(asm.R0, 0, "root"),
		asm.Mov.Imm(asm.R0, 0),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("root"),
		asm.Return(),
	}
}

// guard forbids every socket made in the cgroup to connect, wherever it was
// handed to (KERNEL 1): an accepted socket of a listener made here keeps the
// cgroup for life, and so a tenant cannot take it apart with AF_UNSPEC and
// reach the host's network through it. Nor can he bind what he took apart to
// another port of the host: the kernel frees an accepted socket's port then, as
// it does not a listener's. Binding is for root alone, the Emperor.
//
// The programs are attached to the cgroup itself, not held by a bpf_link of
// this process: a vassal that outlives a killed Emperor stays guarded.
func guard(dir string) error {
	cg, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("guard listeners: %w", err)
	}
	defer cg.Close()
	for _, at := range guardTypes {
		if err := guardOne(cg, at); err != nil {
			return fmt.Errorf("guard listeners: %s: %w", at, err)
		}
	}
	return nil
}

func guardOne(cg *os.File, at ebpf.AttachType) error {
	if have, err := guarded(cg, at); err != nil || have {
		return err
	}
	what := deny()
	if at == ebpf.AttachCGroupInet4Bind || at == ebpf.AttachCGroupInet6Bind {
		what = rootOnly()
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         guardName,
		Type:         ebpf.CGroupSockAddr,
		AttachType:   at,
		Instructions: what,
		License:      "Apache-2.0",
	})
	if err != nil {
		if errors.Is(err, ebpf.ErrNotSupported) {
			err = fmt.Errorf("%w: %w", ErrNotSupported, err)
		}
		return err
	}
	defer prog.Close()
	return link.RawAttachProgram(link.RawAttachProgramOptions{
		Target: int(cg.Fd()), Program: prog, Attach: at, Flags: allowMulti,
	})
}

// guarded tells whether an earlier Emperor left the program there.
func guarded(cg *os.File, at ebpf.AttachType) (bool, error) {
	res, err := link.QueryPrograms(link.QueryOptions{Target: int(cg.Fd()), Attach: at})
	if err != nil {
		return false, err
	}
	for _, p := range res.Programs {
		prog, err := ebpf.NewProgramFromID(p.ID)
		if err != nil {
			continue // it went meanwhile
		}
		info, err := prog.Info()
		prog.Close()
		if err == nil && info.Name == guardName {
			return true, nil
		}
	}
	return false, nil
}
