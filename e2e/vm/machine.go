package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A Machine boots once. Nothing that it writes is kept.
type Machine struct {
	System
	// Payload is a directory whose run.sh is run in a system, as root, in
	// system_u:system_r:initrc_t, from /mnt. A micro machine has none.
	Payload string
	Append  string            // kernel command line, added
	Limit   time.Duration     // from power-on to power-off; none: 5 minutes
	Line    func(text string) // what the guest prints; nil: nobody listens
}

// An EndError says how a machine ended that did not report an exit status.
type EndError struct {
	How     string // what happened
	Console string // the last lines of the console
}

func (e *EndError) Error() string { return e.How + "; the console's end:\n" + e.Console }

// cpu is one whose every instruction QEMU translates well: a newer one makes
// programs use wide registers, which is slow here. A machine has one of it,
// since two machines run at once.
const cpu = "Nehalem"

const (
	consoleTail = 40
	sayUp       = "liege-vm: up"
	sayExit     = "liege-vm: exit "
)

// Run boots the machine and returns the exit status of what ran in it.
func (m Machine) Run(ctx context.Context, w *Work) (int, error) {
	limit := m.Limit
	if limit == 0 {
		limit = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the machine was ended after %v", limit))
	defer cancel()
	dir, err := os.MkdirTemp(w.Dir, "boot-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	args, err := m.arguments(ctx, dir)
	if err != nil {
		return 0, err
	}
	r, port, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	defer tie(cmd)()
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + dir} // the writes of -snapshot
	cmd.ExtraFiles = []*os.File{port}
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return 0, errors.Join(err, r.Close(), port.Close())
	}
	port.Close()
	heard := make(chan report, 1)
	go func() { heard <- m.listen(r) }()
	ended := cmd.Wait()
	rep := <-heard // the pipe's other end died with QEMU
	r.Close()
	if rep.done {
		return rep.status, nil
	}
	console, _ := os.ReadFile(filepath.Join(dir, "console")) // none: QEMU did not start, and says so
	return 0, &EndError{how(rep, string(console), context.Cause(ctx), ended, said.String()), tail(printable(string(console)), consoleTail)}
}

func (m Machine) arguments(ctx context.Context, dir string) ([]string, error) {
	line := "console=ttyS0 loglevel=4 mitigations=off panic=-1 oops=panic security=selinux selinux=1 "
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-snapshot",
		"-machine", "q35", "-cpu", cpu, "-accel", "tcg", "-smp", "1", "-m", "2048",
		"-kernel", m.Kernel, "-initrd", m.Initrd,
		"-serial", "file:" + filepath.Join(dir, "console"),
		"-chardev", "file,id=port,path=/dev/fd/3",
	}
	if m.Disk == "" { // a kernel without modules has a second serial line
		return append(args, "-serial", "chardev:port", "-append", line+m.Append), nil
	}
	disk := filepath.Join(dir, "payload.img")
	if err := payload(ctx, m.Payload, disk); err != nil {
		return nil, err
	}
	return append(args,
		"-drive", "file="+m.Disk+",if=virtio,format=raw,cache=unsafe", "-drive", "file="+disk+",if=virtio,format=raw,cache=unsafe",
		"-device", "virtio-rng", "-device", "virtio-serial", "-device", "virtserialport,chardev=port,name=liege",
		"-append", line+"enforcing=1 root=/dev/vda rw systemd.show_status=0 "+m.Append), nil
}

// A report is what was heard from a guest.
type report struct {
	up, done bool
	status   int
}

// listen reads until the end: a guest must not block because nobody listens.
func (m Machine) listen(r io.Reader) report {
	var rep report
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		text = strings.TrimRight(text, "\r\n")
		switch status, isExit := strings.CutPrefix(text, sayExit); {
		case text == sayUp:
			rep.up = true
		case isExit:
			n, err := strconv.Atoi(status)
			rep.status, rep.done = n, err == nil
		case m.Line != nil && text != "":
			m.Line(text)
		}
		if err != nil {
			return rep
		}
	}
}

// how says how a machine ended that did not report a status.
func how(rep report, console string, cause, ended error, said string) string {
	_, panicked, found := strings.Cut(console, "Kernel panic")
	panicked, _, _ = strings.Cut(panicked, "\n")
	switch {
	case found:
		return "the guest's kernel panicked" + strings.TrimSuffix(printable(panicked), "\r")
	case cause != nil && rep.up:
		return cause.Error() + ", while its tests ran"
	case cause != nil:
		return cause.Error() + ", and had not come up"
	case ended != nil:
		return fmt.Sprintf("qemu: %v: %s", ended, strings.TrimSpace(said))
	case rep.up:
		return "the guest powered off while its tests ran"
	}
	return "the guest powered off before it came up"
}

// printable is text without what would move a terminal's cursor.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, text)
}
