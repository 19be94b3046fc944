package policy

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"liege/vassal"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestNew holds the text of modules to golden files: one case, one file.
func TestNew(t *testing.T) {
	for name, a := range map[string]App{
		"plain": {ID: "shop"},
		"full": {ID: "my-shop", Ports: []int{8071, 8072}, Allow: []string{"db", "http-out"}, Paths: []Path{
			{"/srv/shop", ReadOnly}, {"/srv/shop/var", ReadWrite}, {"/srv/shop/log", Log}, {"/srv/shop/run", Run}, {"/etc/shop.d", Settings}, {"/home/a.b/www", ReadWrite}}},
		"mcs": {ID: "shared", MCS: true, Paths: []Path{{"/srv/tenants", ReadWrite}}},
	} {
		t.Run(name, func(t *testing.T) {
			m, err := New(a)
			if err != nil {
				t.Fatal(err)
			}
			cil, fc := m.Files()
			got := txtar.Format(&txtar.Archive{Files: []txtar.File{{Name: cil, Data: m.CIL}, {Name: fc, Data: m.FC}}})
			file := filepath.Join("testdata", "new", name+".txtar")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestID(t *testing.T) {
	for _, c := range []struct{ id, err, hint string }{
		{id: "shop"}, {id: "Shop-2"}, {id: "_x"}, {id: "9"}, {id: "logs"}, {id: "portal"},
		{id: "a.b", err: "letters, digits, _ and -", hint: "take a_b, and in the vassal: selinux-context = system_u:system_r:webapp_a_b_t:s0"},
		{id: "café", err: "letters", hint: "take caf,"},
		{id: "", err: "letters", hint: "1 to 200"},
		{id: "a b", err: "letters"}, {id: "x\n(allow", err: "letters"}, {id: "..", err: "letters", hint: "take __"}, {id: strings.Repeat("a", 201), err: "letters", hint: "1 to 200"},
		{id: "a.log", err: "letters", hint: "1 to 200"},
		{id: "shop_log", err: "webapp_shop_log_t is how a file type is called"},
		{id: "tmp", err: "webapp_tmp_t is how a file type is called"},
	} {
		err := CheckID(c.id)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, want %q", c.id, err, c.err)
		}
		if err != nil && !strings.Contains(vassal.AsProblems(err, "", "")[0].Hint, c.hint) {
			t.Errorf("%q: hint %q, want %q", c.id, vassal.AsProblems(err, "", "")[0].Hint, c.hint)
		}
	}
}

// TestNoCollision: no type of one app is a type of another, whatever the two are
// called, nor one of the base module's.
func TestNoCollision(t *testing.T) {
	names := []string{"a", "a_b", "a-b", "a_", "b", "t", "domain", "file", "app", "logs", "a_t", "log_t", "a_own", "a_foreign"}
	owner := map[string]string{}
	for _, m := range typeStatement.FindAllSubmatch(baseCIL, -1) {
		owner[string(m[1])] = "the base module"
	}
	for _, id := range names {
		m, err := New(App{ID: id})
		if err != nil {
			t.Errorf("%s: %v", id, err)
			continue
		}
		for _, x := range typeStatement.FindAllSubmatch(m.CIL, -1) {
			if other := owner[string(x[1])]; other != "" {
				t.Errorf("%s of %s is of %s too", x[1], id, other)
			}
			owner[string(x[1])] = id
		}
	}
}

func TestBadApp(t *testing.T) {
	for _, c := range []struct {
		app  App
		want string
	}{
		{App{Paths: []Path{{"srv/x", ReadOnly}}}, "not an absolute path"},
		{App{Paths: []Path{{"/srv/../etc/x", ReadOnly}}}, "shortest form"},
		{App{Paths: []Path{{"/srv/x/", ReadOnly}}}, "shortest form"},
		{App{Paths: []Path{{"/srv", ReadOnly}}}, "belongs to the system"},
		{App{Paths: []Path{{"/", ReadOnly}}}, "belongs to the system"},
		{App{Paths: []Path{{"/usr/lib", ReadWrite}}}, "belongs to the system"},
		{App{Paths: []Path{{"/usr/lib/python3", ReadWrite}}}, "/usr/lib belongs to the system"},
		{App{Paths: []Path{{"/etc/vassals/x", ReadWrite}}}, "/etc/vassals belongs to the system"},
		{App{Paths: []Path{{"/srv/a b", ReadOnly}}}, "a blank"},
		{App{Paths: []Path{{"/srv/a\nb", ReadOnly}}}, "a blank"},
		{App{Paths: []Path{{`/srv/a"b`, ReadOnly}}}, "a blank"},
		{App{Paths: []Path{{"/srv/é", ReadOnly}}}, "not ASCII"},
		{App{Paths: []Path{{"/srv/x", ReadOnly}, {"/srv/x", ReadWrite}}}, "named twice"},
		{App{Ports: []int{0}}, "a port is 1 to 65535"},
		{App{Ports: []int{65536}}, "a port is 1 to 65535"},
		{App{Ports: []int{81, 81}}, "named twice"},
		{App{Allow: []string{"everything"}}, "no such group of services"},
	} {
		c.app.ID = "shop"
		if _, err := New(c.app); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.app, err, c.want)
		}
	}
	if _, err := ParsePath("/srv/x:rwx"); err == nil || !strings.Contains(err.Error(), "no such kind") {
		t.Errorf("kind rwx: %v", err)
	}
	if p, err := ParsePath("/srv/x"); err != nil || p.Kind != ReadOnly {
		t.Errorf("ParsePath: %v, %v", p, err)
	}
}

func TestParseFC(t *testing.T) {
	for _, c := range []struct{ in, cil, stem, err string }{
		{in: "# nothing\n\n"},
		{in: "/srv/x(/.*)?\tsystem_u:object_r:a_t:s0", cil: `(filecon "/srv/x(/.*)?" any (system_u object_r a_t ((s0) (s0))))`, stem: "/srv/x"},
		{in: `/srv/a\.b -- system_u:object_r:a_t:s0:c1,c2`, cil: `(filecon "/srv/a\.b" file (system_u object_r a_t ((s0:c1,c2) (s0:c1,c2))))`, stem: "/srv/a.b"},
		{in: "/home/[^/]+/x(/.*)? -d system_u:object_r:a_t", cil: `(filecon "/home/[^/]+/x(/.*)?" dir (system_u object_r a_t ((s0) (s0))))`, stem: "/home"},
		{in: "/srv/x(a|b)/c -s system_u:object_r:a_t:s0", cil: `(filecon "/srv/x(a|b)/c" socket (system_u object_r a_t ((s0) (s0))))`, stem: "/srv"},
		{in: "/srv/x <<none>>", cil: `(filecon "/srv/x" any ())`, stem: "/srv/x"},
		{in: "/srv/x", err: "a line is"},
		{in: "/srv/x -q system_u:object_r:a_t:s0", err: "kind -q"},
		{in: "srv system_u:object_r:a_t:s0", err: "not the pattern of an absolute path"},
		{in: `/srv"x system_u:object_r:a_t:s0`, err: "not the pattern"},
		{in: "/srv/( system_u:object_r:a_t:s0", err: "missing closing"},
		{in: "/srv/x a_t", err: "user:role:type:level"},
	} {
		labels, err := parseFC([]byte(c.in))
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, want %q", c.in, err, c.err)
		}
		if c.cil == "" {
			continue
		}
		if len(labels) != 1 || labels[0].cil() != c.cil || labels[0].stem() != c.stem {
			t.Errorf("%q: %+v; want %s and %s", c.in, labels, c.cil, c.stem)
		}
	}
}

func TestEditContexts(t *testing.T) {
	old := "# This file is auto-generated by libsemanage\n/srv/other(/.*)?    system_u:object_r:webapp_shop2_rw_t:s0\n" +
		"/srv/shop(/.*)?    system_u:object_r:webapp_shop_rw_t:s0\n/srv/shop_log    system_u:object_r:bin_t:s0\n"
	labels, err := parseFC([]byte("/srv/shop/var(/.*)? system_u:object_r:webapp_shop_rw_t:s0\n/srv/shop(/.*)? -- system_u:object_r:webapp_shop_content_t:s0\n"))
	if err != nil {
		t.Fatal(err)
	}
	rest := "# This file is auto-generated by libsemanage\n/srv/other(/.*)?    system_u:object_r:webapp_shop2_rw_t:s0\n/srv/shop_log    system_u:object_r:bin_t:s0\n"
	want := rest + "/srv/shop(/.*)?    --    system_u:object_r:webapp_shop_content_t:s0\n/srv/shop/var(/.*)?    system_u:object_r:webapp_shop_rw_t:s0\n"
	got := editContexts([]byte(old), "shop", labels)
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(rest, string(editContexts(got, "shop", nil))); diff != "" {
		t.Errorf("taken out again: -want +got:\n%s", diff)
	}
}

func TestOutermost(t *testing.T) {
	got := outermost([]string{"/srv/a/b", "/srv/a", "/srv/ab", "/srv/a", "/home/x"})
	if diff := cmp.Diff([]string{"/home/x", "/srv/a", "/srv/ab"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestStems: what is labelled at once is the app's, never a tree of the system.
func TestStems(t *testing.T) {
	var text strings.Builder
	for _, r := range []string{"/srv/a(/.*)?", "/srv/a/b(/.*)?", "/data(/.*)?", "/home/[^/]+/www(/.*)?", "/srv(/.*)?", "/.*", "/etc/[a-z]+", "/usr/local(/.*)?", "/var/www/x[0-9](/.*)?"} {
		text.WriteString(r + " system_u:object_r:webapp_a_rw_t:s0\n")
	}
	labels, err := parseFC([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/data", "/srv/a", "/var/www"}, stemsOf(labels)); diff != "" {
		t.Error(diff)
	}
}
