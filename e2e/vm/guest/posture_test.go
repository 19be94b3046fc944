package guest

import (
	"fmt"
	"os/user"
	"strings"
	"testing"

	"liege/emperor/control"
)

// TestPosture: two apps serve, and every process of each has the app's user,
// no privilege, and namespaces that neither the host nor the other has.
func TestPosture(t *testing.T) {
	h := newHost(t)
	all := map[string]control.Vassal{}
	for _, name := range []string{"foo", "bar"} {
		all[name] = h.app(name, "this is "+name, "processes = 2")
	}
	host := postureOf(t, 1)
	if strings.Count(host.caps, "0000000000000000") == 5 || host.nnp != "0" || host.seccomp != "0" {
		t.Errorf("init has caps %s, no_new_privs %s, seccomp %s: what a vassal lacks would not be seen", host.caps, host.nnp, host.seccomp)
	}
	foreign := []posture{host}
	for _, name := range []string{"foo", "bar"} {
		v := all[name]
		h.answers(v.Listen[0], "/", "this is "+name)
		kin := family(t, *v.PID)
		if len(kin) < 3 {
			t.Errorf("%s has processes %v; want a core and two workers", name, kin)
		}
		for _, pid := range kin {
			checkPosture(t, name, pid, foreign)
		}
		foreign = append(foreign, postureOf(t, *v.PID))
	}
}

func checkPosture(t *testing.T, name string, pid int, foreign []posture) {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	p := postureOf(t, pid)
	none := strings.TrimSpace(strings.Repeat("0000000000000000 ", 5))
	for _, c := range []struct{ what, got, want string }{
		{"uids", p.uid, strings.TrimSpace(strings.Repeat(u.Uid+" ", 4))},
		{"gids", p.gid, strings.TrimSpace(strings.Repeat(u.Gid+" ", 4))},
		{"groups", p.groups, ""},
		{"capabilities", p.caps, none},
		{"no_new_privs", p.nnp, "1"},
		{"seccomp", p.seccomp, "2"},
	} {
		if c.got != c.want {
			t.Errorf("%s, process %d: %s %q, want %q", name, pid, c.what, c.got, c.want)
		}
	}
	for i, other := range foreign {
		for _, ns := range spaces {
			if p.spaces[ns] == other.spaces[ns] {
				t.Errorf("%s, process %d: its %s namespace is also that of %s", name, pid, ns, fmt.Sprint("foreign process ", i))
			}
		}
	}
}
