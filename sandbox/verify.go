package sandbox

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"liege/sandbox/stage"
)

// A Mismatch is what Verify found: one property of the first process that is
// not as planned.
type Mismatch struct {
	Field     string // as in /proc/PID/status, or "context", "namespace net"
	Got, Want string
}

func (m *Mismatch) Error() string {
	return fmt.Sprintf("the core runs with %s %s, planned was %s", m.Field, m.Got, m.Want)
}

// Verify reads, from outside, the ids, capabilities, no_new_privs, seccomp,
// context and namespaces of the first process and compares them with the
// Spec. The error is or wraps a *Mismatch that names the field. Call it when
// the core has said hello: before, the stage is not done.
func (s *Sandbox) Verify() error {
	status, err := readStatus(s.pid)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	for _, want := range s.wanted() {
		if got := strings.Join(strings.Fields(status[want.Field]), " "); got != want.Want {
			want.Got = got
			return &want
		}
	}
	if err := s.verifyGroups(status["Groups"]); err != nil {
		return err
	}
	if err := s.verifyContext(); err != nil {
		return err
	}
	if err := s.verifyNamespaces(); err != nil {
		return err
	}
	// All of it was about one process, and it is still ours.
	if start, err := startTime(s.pid); err != nil || start != s.start {
		return &Mismatch{Field: "start time", Got: strconv.FormatUint(start, 10), Want: strconv.FormatUint(s.start, 10)}
	}
	return nil
}

// wanted lists the lines of /proc/PID/status. The four numbers of Uid and Gid
// are real, effective, saved and file system.
func (s *Sandbox) wanted() []Mismatch {
	four := func(id int) string {
		return strings.TrimSpace(strings.Repeat(strconv.Itoa(id)+" ", 4))
	}
	caps := stage.CapSet(s.plan.Caps)
	seccomp := "2"
	if len(s.plan.Seccomp) == 0 {
		seccomp = "0"
	}
	return []Mismatch{
		{Field: "Uid", Want: four(s.users.hostUID(s.plan.UID))},
		{Field: "Gid", Want: four(s.users.hostGID(s.plan.GID))},
		{Field: "CapInh", Want: caps},
		{Field: "CapPrm", Want: caps},
		{Field: "CapEff", Want: caps},
		{Field: "CapBnd", Want: caps},
		{Field: "CapAmb", Want: caps},
		{Field: "NoNewPrivs", Want: "1"},
		{Field: "Seccomp", Want: seccomp},
	}
}

func (s *Sandbox) verifyGroups(text string) error {
	var got []int
	for f := range strings.FieldsSeq(text) {
		n, err := strconv.Atoi(f)
		if err != nil {
			return &Mismatch{Field: "Groups", Got: text}
		}
		got = append(got, n)
	}
	var want []int
	for _, g := range s.plan.Groups {
		want = append(want, s.users.hostGID(g))
	}
	slices.Sort(got)
	slices.Sort(want)
	if got, want = slices.Compact(got), slices.Compact(want); !slices.Equal(got, want) {
		return &Mismatch{Field: "Groups", Got: fmt.Sprint(got), Want: fmt.Sprint(want)}
	}
	return nil
}

func (s *Sandbox) verifyContext() error {
	if s.plan.Context == "" {
		return nil
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/attr/current", s.pid))
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if got := strings.TrimRight(string(text), "\x00\n"); got != s.plan.Context {
		return &Mismatch{Field: "context", Got: got, Want: s.plan.Context}
	}
	return nil
}

// verifyNamespaces wants the namespaces that were made, and none of them the
// Emperor's but the network's if the Spec says so.
func (s *Sandbox) verifyNamespaces() error {
	now, err := namespaces(s.pid)
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	own, err := namespaces(os.Getpid())
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	for _, kind := range nsKinds {
		field := "namespace " + kind
		if now[kind] != s.spaces[kind] {
			return &Mismatch{Field: field, Got: now[kind], Want: s.spaces[kind]}
		}
		shared := kind == "net" && s.hostNet || kind == "user" && s.users == nil || kind == "time" && !s.timeNS
		if same := now[kind] == own[kind]; same != shared {
			want := "one of its own"
			if shared {
				want = own[kind]
			}
			return &Mismatch{Field: field, Got: now[kind], Want: want}
		}
	}
	return nil
}

var nsKinds = []string{"mnt", "pid", "ipc", "uts", "net", "cgroup", "user", "time"}

func namespaces(pid int) (map[string]string, error) {
	out := map[string]string{}
	for _, kind := range nsKinds {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return nil, err
		}
		out[kind] = to
	}
	return out, nil
}

func readStatus(pid int) (map[string]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, val, _ := strings.Cut(line, ":")
		out[key] = strings.TrimSpace(val)
	}
	return out, nil
}

// startTime is when pid started, in clock ticks since boot: with the pid it
// names a process for ever.
func startTime(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command, in parentheses, may hold anything; the 20th field after it
	// is the start time (proc(5): 22).
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(f) < 20 {
		return 0, errors.New("short /proc stat")
	}
	return strconv.ParseUint(f[19], 10, 64)
}
