package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// cpuPeriod is that of cpu.max and cpu.cfs_period_us, in microseconds: the
// kernel's default.
const cpuPeriod = 100_000

// usualWeight and usualShares are what a cgroup has by itself, on v2 and v1.
const (
	usualWeight = 100
	usualShares = 1024
)

// knob is one limit and the file that holds it.
type knob struct {
	option     string
	at         vassal.Origin
	controller string
	v1, v2     string // the file; empty: there is none
	set        bool   // the vassal asks for it: without the file it does not start
	val1, val2 string
}

// limit puts l in force on the cgroup; zero lifts a limit. The error is, by
// errors.As, a *vassal.Problem of the line that asks for what cannot be kept.
func (t *trees) limit(inner string, l vassal.Limits) error {
	num := func(n int64, none string) string {
		if n <= 0 {
			return none
		}
		return strconv.FormatInt(n, 10)
	}
	quota := int64(l.CPUMax * cpuPeriod)
	weight := l.CPUWeight
	if weight == 0 {
		weight = usualWeight
	}
	if err := t.openSwap(inner, l); err != nil {
		return err
	}
	var errs []error
	for _, k := range []knob{
		{"memory-max", l.MemoryMaxAt, "memory", "memory.limit_in_bytes", "memory.max", l.MemoryMax > 0, num(l.MemoryMax, "-1"), num(l.MemoryMax, "max")},
		{"memory-high", l.MemoryHighAt, "memory", "", "memory.high", l.MemoryHigh > 0, "", num(l.MemoryHigh, "max")},
		{"cpu-max", l.CPUMaxAt, "cpu", "cpu.cfs_quota_us", "cpu.max", l.CPUMax > 0, num(quota, "-1"), num(quota, "max") + " " + strconv.Itoa(cpuPeriod)},
		{"cpu-weight", l.CPUWeightAt, "cpu", "cpu.shares", "cpu.weight", l.CPUWeight > 0, strconv.FormatInt(max(2, weight*usualShares/usualWeight), 10), strconv.FormatInt(weight, 10)},
		{"pids-max", l.PidsMaxAt, "pids", "pids.max", "pids.max", l.PidsMax > 0, num(l.PidsMax, "max"), num(l.PidsMax, "max")},
	} {
		errs = append(errs, t.turn(inner, k))
	}
	return errors.Join(append(errs, t.limitSockets(inner, l.MemoryMax), t.limitSwap(inner, l), t.limitIO(inner, l.IOMax))...)
}

// limitSockets bounds what sockets hold, which v1 does not count as memory: without
// it a vassal takes all that the kernel has for those of the whole host (tcp_mem,
// udp_mem). A cgroup counts it from when a limit was written on, and none of those
// below it does by itself. What is above a lower limit is neither freed nor refused.
func (t *trees) limitSockets(inner string, memoryMax int64) error {
	if memoryMax <= 0 {
		memoryMax = -1
	}
	err := t.turn(inner, knob{option: "memory-max", controller: "memory", v1: "memory.kmem.tcp.limit_in_bytes", val1: strconv.FormatInt(memoryMax, 10)})
	if errors.Is(err, unix.EBUSY) {
		return nil
	}
	return err
}

// turn writes one limit.
func (t *trees) turn(inner string, k knob) error {
	file, val := k.v1, k.val1
	if t.v2() {
		file, val = k.v2, k.val2
	}
	dir := t.dir(k.controller, inner)
	switch {
	case file == "" && !k.set:
		return nil
	case file == "":
		return unkept(k.option, k.at, fmt.Errorf("%w: cgroup v1 has no such limit", ErrNotSupported))
	case dir == "" && !k.set:
		return nil
	case dir == "":
		return unkept(k.option, k.at, fmt.Errorf("%w: no %s controller", ErrNotSupported, k.controller))
	}
	err := t.put(k.controller, filepath.Join(dir, file), val)
	if err != nil && (k.set || !errors.Is(err, os.ErrNotExist)) {
		return unkept(k.option, k.at, err)
	}
	return nil
}

// unkept is a limit that cannot be kept: the vassal does not start with less.
func unkept(option string, at vassal.Origin, err error) error {
	return &limitError{option: option, at: at, err: err}
}

// limitError keeps the kernel's answer for who asks: a busy limit is not a
// missing one.
type limitError struct {
	option string
	at     vassal.Origin
	err    error
}

func (e *limitError) Error() string { return e.option + ": " + e.err.Error() }
func (e *limitError) Unwrap() error { return e.err }

// As makes of it the problem of the line that asks.
func (e *limitError) As(target any) bool {
	p, ok := target.(**vassal.Problem)
	if ok {
		*p = &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoLimit, File: e.at.File, Line: e.at.Line, Key: e.option, Step: "limits", Message: e.err.Error()}
	}
	return ok
}

// put writes a file of a controller. Where the controller is off the file is
// missing, and a cgroup file system answers "permission denied" to who would
// create it.
func (t *trees) put(controller, file, val string) error {
	err := os.WriteFile(file, []byte(val), 0)
	if errors.Is(err, os.ErrPermission) {
		if _, serr := os.Stat(file); errors.Is(serr, os.ErrNotExist) {
			return fmt.Errorf("the %s controller is off in cgroup %s: %w", controller, filepath.Dir(file), serr)
		}
	}
	return err
}

// swapBytes is how much l lets a vassal swap; negative: there is no bound.
func swapBytes(l vassal.Limits) int64 {
	switch {
	case l.SwapMax != nil:
		return *l.SwapMax
	case l.MemoryMax > 0:
		return 0 // else memory-max would bound nothing on a host with swap
	}
	return vassal.NoSwapLimit
}

const memsw = "memory.memsw.limit_in_bytes"

// openSwap lifts v1's limit of memory and swap together, which is never below
// that of memory alone: limitSwap sets it again.
func (t *trees) openSwap(inner string, l vassal.Limits) error {
	dir := t.dir("memory", inner)
	if t.v2() || dir == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(dir, memsw), []byte("-1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return unkept("swap-max", l.SwapMaxAt, err)
	}
	return nil
}

// limitSwap bounds the swap. A kernel that does not count it is refused where
// there is swap to be had, or where the file names a bound.
func (t *trees) limitSwap(inner string, l vassal.Limits) error {
	n := swapBytes(l)
	k := knob{option: "swap-max", at: l.SwapMaxAt, controller: "memory", v1: memsw, v2: "memory.swap.max", val1: "-1", val2: "max"}
	if n >= 0 {
		k.set = l.SwapMax != nil || hostSwaps()
		k.val2 = strconv.FormatInt(n, 10)
		switch {
		case !t.v2() && l.MemoryMax > 0: // above the one in force, which cannot fall below what is in use
			k.val1 = strconv.FormatInt(max(l.MemoryMax, readInt(t.dir("memory", inner), "memory.limit_in_bytes"))+n, 10)
		case !t.v2() && n > 0:
			return unkept("swap-max", l.SwapMaxAt, fmt.Errorf("%w: cgroup v1 bounds swap together with memory only; hint: memory-max", ErrNotSupported))
		case !t.v2(): // no swap and no bound of memory: as near as v1 comes to it
			return t.turn(inner, knob{option: "swap-max", at: l.SwapMaxAt, controller: "memory", v1: "memory.swappiness", set: k.set, val1: "0"})
		}
	}
	if l.SwapMax == nil {
		k.option, k.at = "memory-max", l.MemoryMaxAt
	}
	err := t.turn(inner, k)
	if errors.Is(err, os.ErrNotExist) {
		return unkept(k.option, k.at, fmt.Errorf("%w: this kernel does not count swap, and the host has some; hint: swapaccount=1 on the kernel's command line, or swap-max = max to let the vassal swap", ErrNotSupported))
	}
	return err
}

// hostSwaps tells whether the host has swap: /proc/swaps has more lines than
// its heading.
func hostSwaps() bool {
	text, err := os.ReadFile("/proc/swaps")
	return err == nil && strings.Count(strings.TrimSpace(string(text)), "\n") > 0
}

// ioFiles are the files of a device's bounds on v1.
var ioFiles = []struct {
	file string
	of   func(vassal.IOMax) int64
}{
	{"blkio.throttle.read_bps_device", func(m vassal.IOMax) int64 { return m.ReadBytes }},
	{"blkio.throttle.write_bps_device", func(m vassal.IOMax) int64 { return m.WriteBytes }},
	{"blkio.throttle.read_iops_device", func(m vassal.IOMax) int64 { return m.ReadOps }},
	{"blkio.throttle.write_iops_device", func(m vassal.IOMax) int64 { return m.WriteOps }},
}

// limitIO sets the bounds of block devices and lifts those of all others.
func (t *trees) limitIO(inner string, all []vassal.IOMax) error {
	want := map[string]vassal.IOMax{}
	for _, m := range all {
		want[m.Device] = m
	}
	if !t.v2() {
		return t.limitIOv1(inner, want)
	}
	for _, dev := range devicesOf(t.dir("io", inner), "io.max") {
		if _, ok := want[dev]; !ok {
			want[dev] = vassal.IOMax{Device: dev}
		}
	}
	for dev, m := range want {
		text := dev
		for _, f := range []struct {
			key string
			n   int64
		}{{"rbps", m.ReadBytes}, {"wbps", m.WriteBytes}, {"riops", m.ReadOps}, {"wiops", m.WriteOps}} {
			text += " " + f.key + "=max"
			if f.n > 0 {
				text = strings.TrimSuffix(text, "max") + strconv.FormatInt(f.n, 10)
			}
		}
		if err := t.turn(inner, knob{option: "io-max", at: m.At, controller: "io", v2: "io.max", set: true, val2: text}); err != nil {
			return gone(err, m)
		}
	}
	return nil
}

func (t *trees) limitIOv1(inner string, want map[string]vassal.IOMax) error {
	for _, f := range ioFiles {
		bounds := map[string]vassal.IOMax{}
		for _, dev := range devicesOf(t.dir("blkio", inner), f.file) {
			bounds[dev] = vassal.IOMax{}
		}
		for dev, m := range want {
			if _, there := bounds[dev]; there || f.of(m) > 0 {
				bounds[dev] = m
			}
		}
		for dev, m := range bounds {
			text := fmt.Sprintf("%s %d", dev, f.of(m)) // 0: none
			if err := t.turn(inner, knob{option: "io-max", at: m.At, controller: "blkio", v1: f.file, set: true, val1: text}); err != nil {
				return gone(err, m)
			}
		}
	}
	return nil
}

// gone drops the error of a device that nobody asks for and that is no more.
func gone(err error, m vassal.IOMax) error {
	if m.At == (vassal.Origin{}) && errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// devicesOf lists the devices that the lines of a file begin with.
func devicesOf(dir, file string) []string {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || dir == "" {
		return nil
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		if dev, _, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.Contains(dev, ":") {
			all = append(all, dev)
		}
	}
	return all
}
