package inifile

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"liege/vassal"
)

var update = flag.Bool("update", false, "rewrite goldens and generated documents")

// lines makes settings of ini text without any of the language: what Decode
// gets from Read for plain files.
func lines(text string) []Setting {
	var out []Setting
	for i, l := range strings.Split(text, "\n") {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' || l[0] == ';' || l[0] == '[' {
			continue
		}
		k, v, ok := strings.Cut(l, "=")
		out = append(out, Setting{Key: strings.TrimSpace(k), Value: strings.TrimSpace(v), Bare: !ok, Origin: vassal.Origin{File: "/etc/vassals/shop.ini", Line: i + 1}})
	}
	return out
}

func fileOf(text string, trust vassal.Trust) *File {
	return &File{Source: Source{Path: "/etc/vassals/shop.ini", Trust: trust}, Settings: lines(text)}
}

// TestDecode compares with testdata/decode/*.txtar: the comment's words set
// trust and policy, "in.ini" is the text, "out" what Decode made of it as far
// as it differs from an empty file's Config, and the problems.
func TestDecode(t *testing.T) {
	files, err := filepath.Glob("testdata/decode/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no goldens", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			trust, pol := vassal.Trust{Operator: true}, Policy{}
			for word := range strings.FieldsSeq(string(ar.Comment)) {
				switch word {
				case "tenant":
					trust = vassal.Trust{UID: 1004, GID: 1004}
				case "ceilings":
					at := vassal.Origin{File: "/etc/liege/emperor.ini", Line: 7}
					pol.MemoryMax, pol.CPUMax, pol.PidsMax = Ceiling{2 << 30, at}, Ceiling{2, at}, Ceiling{100, at}
				case "serve":
					pol.Serve = true
				case "strict":
					pol.Strict = true
				}
			}
			cfg, ps := Decode(fileOf(string(ar.Files[0].Data), trust), pol)
			empty, _ := Decode(fileOf("", trust), pol)
			got := changes(empty, cfg) + problemText(ps)
			if *update {
				ar.Files = []txtar.File{ar.Files[0], {Name: "out", Data: []byte(got)}}
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want := ""
			if len(ar.Files) > 1 {
				want = string(ar.Files[1].Data)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// changes lists the members of b that differ from a's, by path.
func changes(a, b vassal.Config) string {
	var r reporter
	cmp.Equal(a, b, cmp.Reporter(&r))
	return r.String()
}

type reporter struct {
	path cmp.Path
	strings.Builder
}

func (r *reporter) PushStep(s cmp.PathStep) { r.path = append(r.path, s) }
func (r *reporter) PopStep()                { r.path = r.path[:len(r.path)-1] }
func (r *reporter) Report(res cmp.Result) {
	if res.Equal() {
		return
	}
	name := strings.TrimPrefix(r.path.GoString(), "root.")
	if name = strings.NewReplacer("{vassal.Config}.", "", "root", "").Replace(name); strings.Contains(name, "At.") || name == "" {
		return
	}
	_, v := r.path.Last().Values()
	fmt.Fprintf(r, "%s = %s\n", name, show(v.Interface()))
}

// show prints x without what is zero, so that a new member changes no golden.
func show(x any) string {
	var b strings.Builder
	showValue(&b, reflect.ValueOf(x))
	return b.String()
}

func showValue(b *strings.Builder, v reflect.Value) {
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		showValue(b, v.Elem())
	case v.Type() == reflect.TypeFor[vassal.Origin]():
		fmt.Fprintf(b, "line %d", v.FieldByName("Line").Int())
	case v.Kind() == reflect.Struct:
		b.WriteByte('{')
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				fmt.Fprintf(b, " %s:", v.Type().Field(i).Name)
				showValue(b, v.Field(i))
			}
		}
		b.WriteString(" }")
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			b.WriteString("\n    ")
			showValue(b, v.Index(i))
		}
	default:
		fmt.Fprintf(b, "%v", v)
	}
}

func problemText(ps vassal.Problems) string {
	var b strings.Builder
	for _, p := range ps {
		fmt.Fprintf(&b, "%s %s: %s\n", p.Severity, p.Code, strings.TrimPrefix(p.Error(), "/etc/vassals/"))
		if p.Hint != "" {
			fmt.Fprintf(&b, "    hint: %s\n", p.Hint)
		}
	}
	return b.String()
}

// TestEveryWorkingOptionIsApplied: an option whose class says that it works,
// or works in another way with a value, has somewhere to go.
func TestEveryWorkingOptionIsApplied(t *testing.T) {
	valueless := map[string]bool{} // Otherwise rows that are a note and nothing else
	for _, o := range Options() {
		if o.Class == Otherwise && o.Type != Bool {
			continue
		}
		if o.Class != Works || o.Type == Language || valueless[o.Name] {
			continue
		}
		d := &decoder{f: &File{}, plugins: map[string]bool{}, seen: map[string]vassal.Origin{}}
		if !d.apply(value{Setting: Setting{Key: o.Name, Value: "a:b=c", Origin: vassal.Origin{Line: 1}}, opt: &o, n: 1, on: true}) {
			t.Errorf("%s: its class is %q, and nothing takes it", o.Name, o.Class)
		}
	}
}

func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/decode/*.txtar")
	for _, name := range files {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(ar.Files[0].Data), true)
		f.Add(string(ar.Files[0].Data), false)
	}
	f.Fuzz(func(t *testing.T, text string, operator bool) {
		cfg, ps := Decode(fileOf(text, vassal.Trust{Operator: operator, UID: 1004, GID: 1004}), Policy{})
		if !ps.Failed() && !operator {
			if len(cfg.Hooks) > 0 || cfg.Ident.Context != "" || len(cfg.Ident.AddGroups) > 0 {
				t.Errorf("a tenant's file got %+v %+v", cfg.Hooks, cfg.Ident)
			}
		}
		if w := cfg.App.Workers; w != nil && (w.Processes < 1 || w.Threads < 1) {
			t.Errorf("%d processes, %d threads", w.Processes, w.Threads)
		}
		for _, l := range cfg.Listen {
			if l.Address == "" || l.Protocol == "" {
				t.Errorf("listener %+v", l)
			}
		}
		for _, p := range ps {
			if p.Code == "" || p.Message == "" {
				t.Errorf("problem %+v", p)
			}
		}
	})
}
