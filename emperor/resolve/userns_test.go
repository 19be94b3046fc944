package resolve

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

// Who is who in a user namespace: the vassal's own ids keep their numbers, root
// inside is a uid of the vassal's own.
func TestUserNS(t *testing.T) {
	allot := func(name vassal.Name) (int, error) {
		if name != "shop/root" {
			t.Errorf("a uid for %q", name)
		}
		return 1_900_000_009, nil
	}
	line := vassal.Origin{Line: 7}
	for _, tc := range []struct {
		name     string
		cfg      func(*vassal.Config)
		host     Host
		maps     *IDMaps
		uid, gid int // on the host
		plan     int // uid inside
		codes    []string
	}{
		{"none", func(c *vassal.Config) { c.Ident.User = "www-data" }, Host{}, nil, 33, 33, 33, nil},
		{"a user", func(c *vassal.Config) { c.Ident.User, c.Jail.UserNS = "sammy", line }, Host{},
			&IDMaps{Root: 1_900_000_009, User: 1004, Group: 1004, Users: []int{1004}, Groups: []int{1004, 33}}, 1004, 1004, 1004, nil},
		{"root inside", func(c *vassal.Config) { c.Ident.User, c.Jail.UserNS = "root", line }, Host{AllowRoot: true},
			&IDMaps{Root: 1_900_000_009}, 1_900_000_009, 1_900_000_009, 0, nil},
		{"root with a group", func(c *vassal.Config) {
			c.Ident.User, c.Jail.UserNS, c.Ident.AddGroups = "root", line, []vassal.AddGroup{{Name: "www-data"}}
		}, Host{AllowRoot: true}, &IDMaps{Root: 1_900_000_009, Groups: []int{33}}, 1_900_000_009, 1_900_000_009, 0, nil},
		{"root of the host", func(c *vassal.Config) { c.Ident.User = "root" }, Host{AllowRoot: true}, nil, 0, 0, 0, []string{"error uid-root"}},
		{"root not allowed", func(c *vassal.Config) { c.Ident.User, c.Jail.UserNS = "root", line }, Host{},
			&IDMaps{Root: 1_900_000_009, Users: []int{0}, Groups: []int{0}}, 0, 0, 0, []string{"error uid-root"}},
		{"the host's network", func(c *vassal.Config) { c.Ident.User, c.Jail.UserNS, c.Jail.Net = "www-data", line, "host" }, Host{Nets: []string{"none", "host"}},
			&IDMaps{Root: 1_900_000_009, User: 33, Group: 33, Users: []int{33}, Groups: []int{33}}, 33, 33, 33, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config()
			tc.cfg(&cfg)
			tc.host.FS, tc.host.Users, tc.host.AutoUID = OS{}, people{}, allot
			r := Resolve(t.Context(), cfg, tc.host)
			if d := cmp.Diff([]any{tc.maps, tc.uid, tc.gid, tc.plan, tc.codes}, []any{r.Maps, r.UID, r.GID, r.Plan.UID, codes(r.Problems)}); d != "" {
				t.Errorf("maps, uid, gid, uid inside, problems (-want +got):\n%s%v", d, r.Problems)
			}
		})
	}
}

// An idmap does not make the app the owner of root's files.
func TestIDMapOfRoot(t *testing.T) {
	cfg := config()
	cfg.Ident.User = "sammy"
	cfg.Jail.Binds = []vassal.Bind{{Source: "/usr/share", Target: "/x", IDMap: true, Key: "bind"}}
	if got := codes(Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}}).Problems); !cmp.Equal(got, []string{"error refused-path"}) {
		t.Errorf("got %v, want it refused", got)
	}
}
