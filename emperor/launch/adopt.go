package launch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/emperor"
	"liege/emperor/channel"
	"liege/emperor/expand"
	"liege/emperor/listen"
	"liege/emperor/logs"
	"liege/emperor/record"
	"liege/sandbox"
	"liege/sandbox/stage"
	"liege/vassal"
)

// Keep reports whether generation gen of name survived an earlier Emperor and
// may have accepted connections: it was verified, and its first process is the
// one that the record names. It is for sandbox.Manager.Sweep, which removes all
// others.
func (h *Host) Keep(name vassal.Name, gen int) bool {
	rs, err := h.Records.Read(name)
	if err != nil {
		h.Log.Warn("records that cannot be believed", "vassal", name, "err", err)
	}
	for _, r := range rs {
		if r.Gen == gen {
			return h.survives(r)
		}
	}
	return false
}

// survives reports whether r is of a generation that may have accepted
// connections. One that was loading when its Emperor was killed goes on, and
// serves, though nobody hears that it is ready.
func (h *Host) survives(r record.Record) bool {
	return (r.Ready || r.Verified) && h.Records.Alive(r)
}

// Tidy removes the records of generations that Sweep has removed. Call it once
// after Sweep and before the first Launcher.
func (h *Host) Tidy() error {
	names, err := h.Records.Names()
	if err != nil {
		return err
	}
	var errs []error
	given := map[string]bool{}
	for _, name := range h.Given.Names() {
		given[name] = true
	}
	for _, name := range names {
		rs, err := h.Records.Read(name)
		if err != nil {
			errs = append(errs, h.Records.Drop(name, err))
		}
		asleep, err := h.asleep(name, given)
		errs = append(errs, err)
		kept := 0
		if asleep {
			kept++
		}
		for _, r := range rs {
			if h.survives(r) {
				kept++
				continue
			}
			errs = append(errs, h.Records.Remove(name, r.Gen))
		}
		if kept == 0 {
			errs = append(errs, h.Records.Drop(name, nil))
		}
	}
	return errors.Join(append(errs, h.discard(given))...)
}

// Adopt implements emperor.Adopter. What systemd kept comes first, then what
// survivors hold. Of several survivors the first that was
// ready is adopted; the others, which were draining or loading, end.
func (l *launcher) Adopt(ctx context.Context) (found emperor.Survivor, leaving []emperor.Survivor) {
	defer l.steps.now.Store(nil)
	l.host.orphans.await(l)
	l.at("adopt", "")
	for _, in := range l.adoptAll(ctx) {
		s := emperor.Survivor{Instance: in, Gen: in.gen}
		if found.Instance == nil && in.record.Ready {
			found = s
		} else {
			leaving = append(leaving, s)
		}
	}
	return found, leaving
}

// adoptAll makes instances of the survivors and takes the listeners back from
// systemd and from them.
func (l *launcher) adoptAll(ctx context.Context) []*instance {
	l.takeStored()
	var out []*instance
	var loading json.RawMessage // Secure of what was
	for _, r := range l.survivors() {
		in, err := l.adopt(ctx, r)
		if err != nil {
			l.host.Log.Warn("a survivor cannot be adopted", "vassal", l.name, "gen", r.Gen, "err", err)
			if errors.Is(err, sandbox.ErrElsewhere) {
				l.discard(r)
			}
			continue
		}
		l.takeBack(r)
		if out = append(out, in); r.Ready {
			l.recall(r.Secure)
		} else {
			loading = r.Secure
		}
	}
	l.recall(loading) // where nothing had served yet
	if len(out) > 0 {
		if err := l.settle(); err != nil {
			l.host.Log.Warn("limits after an Emperor was killed", "vassal", l.name, "err", err)
		}
	}
	return out
}

// discard ends a survivor that lies where this Emperor's vassals do not: nobody
// could stop it, and its listeners would be taken for ever.
func (l *launcher) discard(r record.Record) {
	var box sandbox.Record
	err := json.Unmarshal(r.Box, &box)
	if err == nil {
		err = l.host.Sandboxes.Discard(box)
	}
	if err == nil {
		err = l.host.Records.Remove(l.name, r.Gen)
	}
	if err != nil {
		l.host.Log.Warn("a survivor does not end", "vassal", l.name, "gen", r.Gen, "err", err)
		return
	}
	l.host.Log.Warn("a survivor has been ended", "vassal", l.name, "gen", r.Gen)
}

func (l *launcher) settle() error {
	v, err := l.host.Sandboxes.Vassal(l.name)
	if err != nil {
		return err
	}
	return v.Settle()
}

// survivors are the records of what may have survived: first what runs the
// application, then what holds its place, the newest of each first.
func (l *launcher) survivors() []record.Record {
	rs, err := l.host.Records.Read(l.name)
	if err != nil {
		l.host.Log.Warn("records that cannot be believed", "vassal", l.name, "err", err)
	}
	slices.SortStableFunc(rs, func(a, b record.Record) int { return cmp.Compare(a.Gen/emperor.FirstHold, b.Gen/emperor.FirstHold) })
	return rs
}

// adopt makes an instance of the generation that r names.
func (l *launcher) adopt(ctx context.Context, r record.Record) (*instance, error) {
	if !l.host.survives(r) {
		return nil, errors.New("its first process is gone")
	}
	var sr sandbox.Record
	if err := json.Unmarshal(r.Box, &sr); err != nil {
		return nil, err
	}
	if sr.Name != l.name || sr.Gen != r.Gen || sr.PID != r.PID {
		return nil, errors.New("its record contradicts itself")
	}
	if err := l.ensureLog(); err != nil { // what serves is not the log's affair
		l.host.Log.Warn("a survivor is adopted without its log", "vassal", l.name, "gen", r.Gen, "err", err)
	}
	box, err := l.host.Sandboxes.Adopt(sr, stage.Plan{Name: l.name}, r.Limits)
	if err != nil {
		return nil, err
	}
	p := &prepared{Expanded: expand.Expanded{Config: vassal.Config{Name: l.name, File: r.File, Limits: r.Limits}}, hup: &l.hup}
	p.logsTo(logs.PathOf(l.host.Logs.Dir, l.name))
	if l.log != nil {
		p.logsTo(l.log.Path())
	}
	p.Config.Restart.DrainTimeout = r.Drain
	in := newInstance(ctx, l, p, r.Gen)
	in.record, in.box, in.log = r, box, l.log
	if v, err := l.host.Sandboxes.Vassal(l.name); err == nil && !sr.Bare {
		gate := v.Gate(r.Gen) // it serves on, if there is one
		in.relay = gate
		if r.Relay {
			in.gate = gate
		}
	}
	if r.Ready {
		in.level()
	}
	in.ready <- nil
	heard := make(chan struct{})
	close(heard)
	go in.finish(heard, nil)
	if r.Ready {
		l.log.Note("%s, pid %d, outlived the Emperor that started it: it serves until its successor is ready", title(r.Gen), r.PID)
	} else {
		l.log.Note("%s, pid %d, was not ready when the Emperor that started it ended: it ends", title(r.Gen), r.PID)
	}
	return in, nil
}

// findLeft looks for the counts that a survivor leaves, unless they were found.
func (in *instance) findLeft() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.hearLeft()
}

// hearLeft takes over what a survivor has counted, with in.mu held.
func (in *instance) hearLeft() {
	if in.control != nil {
		return
	}
	select {
	case <-in.box.Done():
	default:
		if in.left == nil {
			in.left = in.lookForLeft()
		}
	}
	if in.left == nil {
		return
	}
	if c, ok := in.left.Counts(); ok {
		in.counts = c
	}
}

func (in *instance) lookForLeft() *channel.Left {
	pidfd, err := unix.PidfdOpen(in.record.PID, 0)
	if err != nil {
		return nil
	}
	defer unix.Close(pidfd)
	if !in.l.host.Records.Alive(in.record) { // the pid is still its own once the pidfd is open
		return nil
	}
	return channel.FindLeft(in.record.PID, pidfd)
}

// takeBack takes the listeners out of the survivor: its descriptors are
// copied, and believed only if they are the sockets that the record names.
func (l *launcher) takeBack(r record.Record) {
	pidfd, err := unix.PidfdOpen(r.PID, 0)
	if err != nil || !l.host.Records.Alive(r) { // the pid is still r's once the pidfd is open
		if err == nil {
			unix.Close(pidfd)
		}
		return
	}
	defer unix.Close(pidfd)
	where := socketsOf(r.PID)
	for _, k := range r.Listeners {
		if slices.ContainsFunc(l.sockets.Bound(), func(b listen.Bound) bool { return b.Named == k.Address && b.Address == k.Bound }) {
			continue // another survivor had it
		}
		var f *os.File
		err := errors.New("it does not hold it any more")
		if fd, ok := where[fmt.Sprintf("socket:[%d]", k.Inode)]; ok {
			f, err = takeOne(pidfd, fd, k)
		}
		if err == nil {
			err = l.sockets.Adopt(vassal.Listener{Address: k.Address, Protocol: k.Protocol, At: vassal.Origin{File: r.File, Line: k.Line}}, k.Bound, r.File, f)
			if err != nil {
				f.Close()
			}
		}
		if err != nil {
			l.host.Log.Warn("a listener cannot be taken back", "vassal", l.name, "gen", r.Gen, "listen", k.Bound, "err", err)
		}
	}
}

// socketsOf maps what /proc shows for a socket to a descriptor of pid: a hint
// where to look.
func socketsOf(pid int) map[string]int {
	out := map[string]int{}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	es, err := os.ReadDir(dir)
	if err != nil {
		return out // it just ended: PidfdGetfd will say so
	}
	for _, e := range es {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if to, err := os.Readlink(dir + "/" + e.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			out[to] = fd
		}
	}
	return out
}

// takeOne copies one listener out of the process of pidfd. The process is the
// tenant's: the copy is checked for kind, state and cookie.
func takeOne(pidfd, from int, k record.Listener) (*os.File, error) {
	fd, err := unix.PidfdGetfd(pidfd, from, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", from, err)
	}
	if err := checkSocket(fd, k); err != nil {
		go unix.Close(fd) // which may wait for a FUSE of the tenant's: it is another file than the one that was seen there
		return nil, fmt.Errorf("descriptor %d: %w", from, err)
	}
	// os.File watches descriptors in non-blocking mode, and this process has
	// no use for news of connections.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), k.Bound)
	return f, unix.SetNonblock(fd, true) // the survivor's too, which is using it
}

func checkSocket(fd int, k record.Listener) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	local := strings.HasPrefix(k.Address, "/") || strings.HasPrefix(k.Address, "@")
	switch {
	case kind != unix.SOCK_STREAM || local != (domain == unix.AF_UNIX):
		return errors.New("is a socket of another kind")
	case cookie != k.Cookie || cookie == 0:
		return errors.New("is another socket")
	}
	return nil
}
