package selinux

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"liege/internal/testenv"
)

// toy is a policy: the contexts it knows with their canonical form, and the
// rules "from to class permission".
type toy struct {
	known      map[string]string
	rules      map[string]bool
	permissive bool
}

func (p toy) canonical(c string) (string, error) {
	if k, ok := p.known[c]; ok {
		return k + "\x00", nil
	}
	return "", &osError{syscall.EINVAL}
}

func (p toy) allowed(from, to, class, permission string) (bool, bool, error) {
	return p.rules[strings.Join([]string{from, to, class, permission}, " ")], p.permissive, nil
}

// created knows one type_transition rule: what makes a FIFO in liege_run_t.
func (p toy) created(from, to, class string) (string, error) {
	if class == "fifo_file" && Type(to) == "liege_run_t" {
		return WithType(to, strings.TrimSuffix(Type(from), "_t")+"_log_t") + "\x00", nil
	}
	return to, nil
}

type osError struct{ errno syscall.Errno }

func (e *osError) Error() string { return e.errno.Error() }
func (e *osError) Unwrap() error { return e.errno }

const (
	stageCon = "system_u:system_r:liege_stage_t:s0"
	rootCon  = "unconfined_u:unconfined_r:unconfined_t:s0"
	shop     = "system_u:system_r:webapp_shop_t:s0:c0,c1"
	shopAs   = "system_u:system_r:webapp_shop_t:s0:c1,c0"
	blog     = "system_u:system_r:webapp_blog_t:s0"
)

func policy(permissive bool) *Policy {
	return &Policy{own: stageCon, ask: toy{
		permissive: permissive,
		known:      map[string]string{shop: shop, shopAs: shop, blog: blog},
		rules: map[string]bool{
			stageCon + " " + stageCon + " process setcurrent": true,
			stageCon + " " + shop + " process dyntransition":  true,
		},
	}}
}

func TestEnter(t *testing.T) {
	for _, c := range []struct {
		name, from, context string
		permissive          bool
		want, err           string
	}{
		{name: "allowed", from: stageCon, context: shop, want: shop},
		{name: "canonical form", from: stageCon, context: shopAs, want: shop},
		{name: "unknown", from: stageCon, context: "system_u:system_r:nothing_t:s0", err: "is the module with nothing_t installed"},
		{name: "no rule", from: stageCon, context: blog, err: "the policy lacks: allow liege_stage_t webapp_blog_t:process dyntransition"},
		{name: "permissive domain", from: stageCon, context: blog, permissive: true, err: "only because that domain is permissive"},
		{name: "root shell", from: rootCon, context: shop,
			err: "the Emperor runs as unconfined_u:unconfined_r and cannot change to system_u:system_r; start it with systemctl, or with runcon -u system_u -r system_r"},
		{name: "no setcurrent", from: "system_u:system_r:init_t:s0", context: shop, err: "the policy lacks: allow init_t self:process setcurrent"},
		{name: "no context", from: stageCon, context: "webapp_shop_t", err: "user:role:type:level"},
		{name: "two questions in one", from: stageCon, context: shop + " x", err: "user:role:type:level"},
	} {
		got, err := policy(c.permissive).Enter(c.from, c.context)
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %q, %v; want %q, %q", c.name, got, err, c.want, c.err)
		}
	}
}

const coreFile = "system_u:object_r:liege_core_exec_t:s0"

// Every permission that the exec transition needs is named when it is missing.
func TestEnterByExec(t *testing.T) {
	rules := []string{
		stageCon + " " + stageCon + " process setexec", stageCon + " " + shop + " process transition", shop + " " + coreFile + " file entrypoint",
		stageCon + " " + shop + " process2 nnp_transition", stageCon + " " + shop + " process2 nosuid_transition",
	}
	for missing := -1; missing < len(rules); missing++ {
		p := policy(false)
		for i, r := range rules {
			p.ask.(toy).rules[r] = i != missing
		}
		got, err := p.EnterByExec(stageCon, coreFile, shopAs)
		if missing < 0 {
			if got != shop || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			continue
		}
		permission := rules[missing][strings.LastIndexByte(rules[missing], ' '):]
		if err == nil || !strings.HasSuffix(err.Error(), permission) {
			t.Errorf("without %s: %q, %v", rules[missing], got, err)
		}
	}
}

// A context that is entered is not enough: somebody who asked for it is told
// where nothing is enforced, be it by the mode or for that domain alone.
func TestReach(t *testing.T) {
	for _, c := range []struct {
		name       string
		mode       Mode
		permissive bool
		weak       bool
	}{{"enforcing", Enforcing, false, false}, {"permissive", Permissive, false, true}, {"permissive domain", Enforcing, true, true}} {
		p := policy(c.permissive)
		p.mode = func() Mode { return c.mode }
		got, err := p.Reach(Target{From: stageCon}, shopAs, false)
		if got != shop || errors.Is(err, ErrPermissive) != c.weak || err != nil && !c.weak {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestDomains(t *testing.T) {
	const level = ":s0-s0:c0.c1023"
	known := map[string]string{}
	for _, c := range []string{
		"system_u:system_r:liege_stage_t" + level, "system_u:system_r:liege_hook_t:s0", "system_u:system_r:liege_relay_t:s0",
		"system_u:system_r:liege_router_t" + level, "system_u:system_r:webapp_t:s0",
	} {
		known[c] = c
	}
	p := &Policy{own: "system_u:system_r:liege_emperor_t" + level, ask: toy{known: known}}
	got, err := p.Domains()
	want := Domains{
		Emperor: p.own, Stage: "system_u:system_r:liege_stage_t" + level, Hook: "system_u:system_r:liege_hook_t:s0",
		Relay: "system_u:system_r:liege_relay_t:s0", Router: "system_u:system_r:liege_router_t" + level, Default: "system_u:system_r:webapp_t:s0",
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	delete(known, want.Default)
	if _, err := p.Domains(); err == nil || !strings.Contains(err.Error(), "webapp_t") {
		t.Errorf("without webapp_t: %v", err)
	}
	p.own = rootCon
	if got, err := p.Domains(); err != nil || got != (Domains{Emperor: rootCon, Stage: rootCon}) {
		t.Errorf("from a shell: %+v, %v", got, err)
	}
}

func TestCreated(t *testing.T) {
	p := policy(false)
	for class, want := range map[string]string{
		"fifo_file": "system_u:object_r:webapp_shop_log_t:s0", "dir": "system_u:object_r:liege_run_t:s0",
	} {
		if got, err := p.Created(shop, "system_u:object_r:liege_run_t:s0", class); got != want || err != nil {
			t.Errorf("%s: got %q, %v; want %q", class, got, err, want)
		}
	}
}

// Where no context is asked for nothing is asked of the kernel, and the error
// of what makes the socket arrives.
func TestSocketsWithout(t *testing.T) {
	bad := errors.New("no more descriptors")
	if err := Sockets("", func() error { return bad }); err != bad {
		t.Errorf("got %v, want %v", err, bad)
	}
	if got := MountOption("system_u:object_r:t:s0:c1,c2"); got != `context="system_u:object_r:t:s0:c1,c2"` {
		t.Errorf("mount option %s: a comma must be quoted", got)
	}
}

// The kernel's format string is "%x %x %x %x %u %x" (selinuxfs.c).
func TestParseAnswer(t *testing.T) {
	for _, c := range []struct {
		in         string
		allowed    uint32
		permissive bool
		bad        bool
	}{
		{in: "80 ffffffff 0 ffffffff 42 0", allowed: 0x80},
		{in: "80 ffffffff 0 ffffffff 42 1\x00", allowed: 0x80, permissive: true},
		{in: "0 ffffffff 0 ffffffff 42", allowed: 0},
		{in: "", bad: true}, {in: "80", bad: true}, {in: "x 1 1 1 1 1", bad: true}, {in: "1 1 1 1 1 y", bad: true},
	} {
		allowed, permissive, err := parseAnswer(c.in)
		if allowed != c.allowed || permissive != c.permissive || (err != nil) != c.bad {
			t.Errorf("parseAnswer(%q) = %#x, %v, %v", c.in, allowed, permissive, err)
		}
	}
	if got, want := question(stageCon, shop, 2, 0x80), stageCon+" "+shop+" 2 80"; got != want {
		t.Errorf("question = %q, want %q", got, want)
	}
}

func TestOff(t *testing.T) {
	testenv.Need(t, testenv.NoSELinux)
	if _, err := Load(); !errors.Is(err, ErrOff) {
		t.Errorf("Load on a kernel without SELinux: %v, want ErrOff", err)
	}
	if m := CurrentMode(); m != Off {
		t.Errorf("mode %s, want off", m)
	}
}

// With a real policy: one's own context is known, and reads back as itself.
func TestOwn(t *testing.T) {
	testenv.Need(t, testenv.SELinux)
	p, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Known(p.Own()); err != nil || got != p.Own() {
		t.Errorf("Known(%q) = %q, %v", p.Own(), got, err)
	}
}
