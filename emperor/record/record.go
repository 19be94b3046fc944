// Package record keeps, on disk, what a later Emperor must know of the
// generations that this one started, should this one be killed (KERNEL 19).
//
// The run directory:
//
//	RUN/lock                        held with flock(2) while an Emperor uses it
//	RUN/vassals/v-NAME/             one directory per vassal, root's
//	RUN/vassals/v-NAME/gen-N.json   one Record per generation that may live
//	RUN/vassals/v-NAME/asleep.json  the listeners that systemd keeps of it (Asleep)
//	RUN/vassals/v-NAME/log          the vassal's log FIFO
//	RUN/mail/UID                    what was counted of a user's mail (package relay)
//
// A Record is written, whole and by rename, before the stage of its generation
// is executed and again when more is known; it is removed when nothing of the
// generation is left. It is root's, but it is read back as if it were a
// stranger's: a bound, known members, plausible values.
package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// Version is the only version of the format.
const Version = 1

// maxRecord bounds a record file, in bytes.
const maxRecord = 1 << 20

// Record is one generation.
type Record struct {
	V         int             `json:"v"`
	Name      vassal.Name     `json:"name"`
	Gen       int             `json:"gen"`
	File      string          `json:"file"`
	PID       int             `json:"pid"`        // of the sandbox's first process; 0: not known yet
	StartTime uint64          `json:"start_time"` // of PID: field 22 of /proc/PID/stat, in clock ticks since boot
	Boot      string          `json:"boot"`       // boot id: a PID of another boot is nobody
	Cgroup    string          `json:"cgroup"`     // as the sandbox names it
	Digest    string          `json:"digest"`
	Verified  bool            `json:"verified"` // the core was looked at from outside: it may accept connections soon
	Ready     bool            `json:"ready"`    // it said that it serves
	Drain     time.Duration   `json:"drain"`    // how long it may take to finish
	UID       int             `json:"uid"`
	Limits    vassal.Limits   `json:"limits"`
	Box       json.RawMessage `json:"box,omitempty"`   // what package sandbox wants to know again
	Relay     bool            `json:"relay,omitempty"` // a liege-relay stands beside it
	Listeners []Listener      `json:"listeners"`

	// Secure is what package launch wants to know again of listeners that speak TLS.
	Secure json.RawMessage `json:"secure,omitempty"`
}

// Listener is one listening socket that the generation's first process holds.
type Listener struct {
	Address  string          `json:"address"` // as the file names it, canonical
	Bound    string          `json:"bound"`   // as bound
	Protocol vassal.Protocol `json:"protocol"`
	FD       int             `json:"fd"` // as handed over; the core may have moved it
	Inode    uint64          `json:"inode"`
	Cookie   uint64          `json:"cookie"`
	Line     int             `json:"line"`
}

// A Dir is an Emperor's run directory, locked.
type Dir struct {
	path string
	lock *os.File
	boot string
}

// Open makes the run directory if it is missing and locks it. The error of a
// second Emperor says who holds it.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(filepath.Join(path, "vassals"), 0o755); err != nil {
		return nil, err
	}
	lock, err := lockIn(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock}
	if err := errors.Join(d.sign(), d.unwritten()); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

// lastChild is how long the lock of an Emperor that was killed may be held by
// a child that it had forked and that has not come to its exec yet.
const lastChild = 2 * time.Second

// lockIn opens and takes the lock of the run directory.
func lockIn(path string) (*os.File, error) {
	for {
		lock, err := os.OpenFile(filepath.Join(path, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		holder, err := take(lock)
		switch {
		case err == nil && current(lock):
			return lock, nil
		case err == nil: // it was put aside meanwhile
		case errors.Is(err, unix.EWOULDBLOCK) && hangsDead(holder):
			if err = putAside(path, lock); err != nil {
				err = fmt.Errorf("%s: the lock of the Emperor with pid %d, which is dead but for what hangs in the kernel: %w", path, holder, err)
			}
		case errors.Is(err, unix.EWOULDBLOCK):
			err = fmt.Errorf("%s is in use by the Emperor with pid %d", path, holder)
		default:
			err = fmt.Errorf("%s cannot be locked: %w", path, err)
		}
		lock.Close()
		if err != nil {
			return nil, err
		}
	}
}

// take locks an open lock file. EWOULDBLOCK: holder has it.
func take(lock *os.File) (holder int, err error) {
	for deadline := time.Now().Add(lastChild); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return 0, err
		}
		b, readErr := io.ReadAll(io.NewSectionReader(lock, 0, 32))
		if readErr != nil {
			return 0, readErr
		}
		holder, convErr := strconv.Atoi(strings.TrimSpace(string(b)))
		if gone := convErr == nil && errors.Is(unix.Kill(holder, 0), unix.ESRCH); !gone || time.Now().After(deadline) {
			return holder, err
		}
	}
}

// current reports whether lock is still the lock file of its directory.
func current(lock *os.File) bool {
	have, err := lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(lock.Name())
	return err == nil && os.SameFile(have, there)
}

// hangsDead reports whether process pid was killed, and is dead but for threads
// that hang in the kernel, on a dead server or a FUSE of a user's: SIGKILL ends
// those when they are answered, which may be never, and what the process had open
// stays open. It runs no code any more.
func hangsDead(pid int) bool {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return false
	}
	hang := 0
	for _, t := range tasks {
		state, killed, err := taskIn(t)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return false
		case state == "Z", state == "X":
		case state == "D" && killed:
			hang++
		default:
			return false
		}
	}
	return hang > 0
}

// taskIn is the state in a status file of /proc, and whether SIGKILL waits to be
// obeyed.
func taskIn(file string) (state string, killed bool, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", false, err
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch name {
		case "State":
			state, _, _ = strings.Cut(value, " ")
		case "SigPnd", "ShdPnd":
			mask, err := strconv.ParseUint(value, 16, 64)
			if err != nil {
				return "", false, err
			}
			killed = killed || mask&(1<<(unix.SIGKILL-1)) != 0
		}
	}
	return state, killed, nil
}

// putAside removes a lock file that nobody will ever give up. One Emperor does so
// at a time, so that none removes the lock that another has just made.
func putAside(path string, lock *os.File) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock on the directory
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if !current(lock) {
		return nil
	}
	return os.Remove(lock.Name())
}

// sign writes who holds the lock, and learns which boot this is.
func (d *Dir) sign() error {
	if err := d.lock.Truncate(0); err != nil {
		return err
	}
	if _, err := d.lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return err
	}
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	d.boot = strings.TrimSpace(string(b))
	return err
}

// unwritten removes the records that an Emperor was killed writing.
func (d *Dir) unwritten() error {
	found, err := filepath.Glob(filepath.Join(globQuote(d.path), "vassals", "*", "*.json.tmp"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range found {
		errs = append(errs, os.Remove(f))
	}
	return errors.Join(errs...)
}

// Close gives the directory up. What is in it stays.
func (d *Dir) Close() error { return d.lock.Close() }

// cgroupFile is where SetCgroup writes.
func cgroupFile(runDir string) string { return filepath.Join(runDir, "cgroup") }

// SetCgroup notes the cgroup in which the vassals' own are, for who tells processes
// of theirs from others (Cgroup).
func (d *Dir) SetCgroup(all string) error {
	return replace(cgroupFile(d.path), []byte(all+"\n"), 0o644)
}

// Cgroup is what the last Emperor of a run directory noted there; empty: none did.
func Cgroup(runDir string) string {
	b, err := os.ReadFile(cgroupFile(runDir))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(string(b), "\n")
}

// Path is the run directory.
func (d *Dir) Path() string { return d.path }

// Meter opens the file in which the relays of a user's vassals count together.
// It stays when the last of them goes: who makes a vassal anew is not counted
// anew.
func (d *Dir) Meter(uid int, size int64) (*os.File, error) {
	dir := filepath.Join(d.path, "mail")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("meter: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(uid)), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("meter: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return nil, fmt.Errorf("meter: %w", err)
	}
	return f, nil
}

// Vassal is the directory of the vassal name.
func (d *Dir) Vassal(name vassal.Name) string {
	return filepath.Join(d.path, "vassals", name.Dir())
}

func (d *Dir) file(name vassal.Name, gen int) string {
	return filepath.Join(d.Vassal(name), fmt.Sprintf("gen-%d.json", gen))
}

// Write writes r, atomically. It fills in V, Boot and, with a PID, StartTime.
func (d *Dir) Write(r Record) error {
	r.V, r.Boot = Version, d.boot
	if r.PID != 0 && r.StartTime == 0 {
		var err error
		if r.StartTime, err = StartTime(r.PID); err != nil {
			return err
		}
	}
	return d.save(r.Name, d.file(r.Name, r.Gen), r)
}

// save writes a file of the vassal name, whole or not at all.
func (d *Dir) save(name vassal.Name, file string, v any) error {
	text, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	if err := os.Mkdir(d.Vassal(name), 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return replace(file, append(text, '\n'), 0o600) // a power cut ends what it speaks of: no fsync
}

// replace writes a file, whole or not at all; nothing else is left of a failure.
func replace(file string, text []byte, mode fs.FileMode) error {
	tmp := file + ".tmp"
	err := os.WriteFile(tmp, text, mode)
	if err == nil {
		err = os.Rename(tmp, file)
	}
	if err != nil {
		_ = os.Remove(tmp) // half of it, or not even made: err says why
	}
	return err
}

// Remove removes the record of a generation of which nothing is left.
func (d *Dir) Remove(name vassal.Name, gen int) error {
	if err := os.Remove(d.file(name, gen)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveVassal removes the directory of a vassal that is gone, if nothing is
// in it.
func (d *Dir) RemoveVassal(name vassal.Name) error {
	err := os.Remove(d.Vassal(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Read returns the records of the vassal name, the newest generation first. A
// file that cannot be believed is an error beside the others.
func (d *Dir) Read(name vassal.Name) ([]Record, error) {
	found, err := filepath.Glob(filepath.Join(globQuote(d.Vassal(name)), "gen-*.json"))
	if err != nil {
		return nil, err
	}
	var rs []Record
	var errs []error
	for _, f := range found {
		r, err := d.read(f, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", f, err))
			continue
		}
		rs = append(rs, r)
	}
	slices.SortFunc(rs, func(a, b Record) int { return b.Gen - a.Gen })
	return rs, errors.Join(errs...)
}

// Names lists the vassals that have a directory.
func (d *Dir) Names() ([]vassal.Name, error) {
	es, err := os.ReadDir(filepath.Join(d.path, "vassals"))
	if err != nil {
		return nil, err
	}
	var names []vassal.Name
	for _, e := range es {
		if s, ok := strings.CutPrefix(e.Name(), "v-"); ok && e.IsDir() {
			if n, err := vassal.ParseName(s); err == nil {
				names = append(names, n)
			}
		}
	}
	return names, nil
}

// load reads a file that save wrote, or more than maxRecord of it.
func load(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxRecord+1))
}

func (d *Dir) read(file string, name vassal.Name) (Record, error) {
	text, err := load(file)
	if err != nil {
		return Record{}, err
	}
	r, err := Parse(text)
	switch {
	case err != nil:
		return Record{}, err
	case r.Name != name || filepath.Base(file) != fmt.Sprintf("gen-%d.json", r.Gen):
		return Record{}, fmt.Errorf("is about %s, generation %d", r.Name, r.Gen)
	}
	return r, nil
}

// Parse parses the text of a record.
func Parse(text []byte) (Record, error) {
	var r Record
	if err := parse(text, &r); err != nil {
		return r, err
	}
	if _, err := vassal.ParseName(string(r.Name)); err != nil {
		return r, err
	}
	if r.V != Version || r.Gen < 1 || r.PID < 0 || r.Drain < 0 {
		return r, fmt.Errorf("version %d, generation %d, pid %d: not plausible", r.V, r.Gen, r.PID)
	}
	for _, l := range r.Listeners {
		if l.FD < 3 || l.FD > 1<<16 || l.Address == "" {
			return r, fmt.Errorf("listener %q at descriptor %d: not plausible", l.Address, l.FD)
		}
	}
	return r, nil
}

// parse parses text, which holds one value of known members.
func parse(text []byte, into any) error {
	if len(text) > maxRecord {
		return errors.New("too long")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("text after the record")
	}
	return nil
}

// Alive reports whether the process that r names runs: the same pid, started
// at the same time, in this boot.
func (d *Dir) Alive(r Record) bool {
	if r.PID == 0 || r.Boot != d.boot {
		return false
	}
	t, err := StartTime(r.PID)
	return err == nil && t == r.StartTime
}

// StartTime is field 22 of /proc/PID/stat: with the pid it names a process.
// An error says that there is no such process, or a dead one.
func StartTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(b, ')') // the command may hold anything
	if i < 0 {
		return 0, fmt.Errorf("/proc/%d/stat: no command", pid)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat: too short", pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		return 0, fmt.Errorf("process %d is dead", pid)
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// globQuote quotes what filepath.Glob would expand.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

// Drop removes what an earlier Emperor left in the directory of a vassal of
// which nothing lives, and the directory; if unreadable is not nil, only the
// records that Read could not believe.
func (d *Dir) Drop(name vassal.Name, unreadable error) error {
	found, err := filepath.Glob(filepath.Join(globQuote(d.Vassal(name)), "gen-*.json*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range found {
		if unreadable != nil {
			if _, err := d.read(f, name); err == nil {
				continue
			}
		}
		errs = append(errs, os.Remove(f))
	}
	if unreadable == nil {
		if err := os.Remove(filepath.Join(d.Vassal(name), "log")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		errs = append(errs, d.RemoveVassal(name))
	}
	return errors.Join(errs...)
}
