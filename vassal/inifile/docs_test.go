package inifile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

// TestDocs holds the documents made from the tables against docs/. With
// -update it writes them; in compatibility.md what stands above the marker is
// written by hand.
func TestDocs(t *testing.T) {
	for name, text := range map[string]string{
		"options.md": optionsDoc(), "compatibility.md": compatibilityDoc(), "errors.md": errorsDoc(),
	} {
		file := filepath.Join("..", "..", "docs", name)
		old, err := os.ReadFile(file)
		if err != nil && !*update {
			t.Error(err)
			continue
		}
		want := text
		if name == "compatibility.md" {
			hand, _, ok := strings.Cut(string(old), marker)
			if !ok {
				t.Errorf("%s: the line %q is missing", name, strings.TrimSpace(marker))
				continue
			}
			want = hand + marker + text
		}
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if d := cmp.Diff(want, string(old)); d != "" {
			t.Errorf("%s differs from the table (go test ./vassal/inifile -update writes it): -want +got\n%s", name, d)
		}
	}
}

const marker = "<!-- Made from the table by go test ./vassal/inifile -update. Change nothing below. -->\n"

// optionsDoc is every option, group by group.
func optionsDoc() string {
	var b strings.Builder
	b.WriteString(`# Options

Made from the table by ` + "`go test ./vassal/inifile -update`" + `; don't edit. ` + "`liege options KEY`" + ` shows one row,
` + "`liege options --json`" + ` all of them. Options stand in section [uwsgi] or [vassal] of a vassal's file.

- **Value**: switch (false, off, no and 0 are false, everything else is true, and so is the bare name), number (the leading
  number counts), text, k=v, mode (octal), seconds (Liege's own also take 500ms, 2m, 1h), size (Liege's own take 512M, 2G).
- **+** after the type: every line counts; otherwise the last one wins.
- **T**: a tenant's file may use it.
- **Path**: how the host path that it names becomes visible inside.
- Options without a mark work. *Always so*, *otherwise*, *not yet*, *refused*: see compatibility.md.
`)
	group := ""
	for _, o := range Options() {
		if o.Group != group {
			group = o.Group
			fmt.Fprintf(&b, "\n## %s\n\n| option | value | default | T | path | |\n|---|---|---|---|---|---|\n", group)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", names(o), valueText(o), o.Default, mark(o.Tenant), o.Path, cell(docText(o)))
	}
	b.WriteString("\n## emperor.ini\n\nAny option above may also stand in [defaults], which is read before each vassal's own lines.\n\n| section | key | value | default | |\n|---|---|---|---|---|\n")
	for _, o := range EmperorOptions() {
		many := ""
		if o.Many {
			many = " +"
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s%s | %s | %s |\n", o.Section, o.Name, o.Type, many, o.Default, cell(o.Doc))
	}
	return b.String()
}

func names(o Option) string {
	s := "`" + o.Name + "`"
	if o.Short != "" {
		s += " `-" + o.Short + "`"
	}
	for _, a := range o.Alias() {
		s += " `" + a + "`"
	}
	return s
}

func valueText(o Option) string {
	s := string(o.Type)
	if o.Unit != "" && o.Unit != s {
		s += ", " + o.Unit
	}
	if o.Many {
		s += " +"
	}
	return s
}

func mark(on bool) string {
	if on {
		return "T"
	}
	return ""
}

func docText(o Option) string {
	s := o.Doc
	if o.Empty != "" {
		s += " Without a value: " + o.Empty + "."
	}
	if o.Class != Works {
		s += fmt.Sprintf(" *%s: %s.*", classWord(o.Class), o.Effect)
	}
	if o.Since != "uwsgi 2.0" {
		s += " (" + o.Since + ")"
	}
	return s
}

func classWord(c Class) string {
	s := strings.TrimPrefix(string(c), "done ")
	return strings.ToUpper(s[:1]) + s[1:]
}

func cell(s string) string { return strings.ReplaceAll(s, "|", "\\|") }

// compatibilityDoc is the classes, each effect with the options that share it.
func compatibilityDoc() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n## Every option has a class\n\n")
	for _, c := range []struct {
		class Class
		means string
	}{
		{Works, "as uWSGI's manual says; `liege check` is silent. docs/options.md has them all."},
		{Always, "what the option asks for always holds; `check` is silent, and a wish for the contrary is a note."},
		{Otherwise, "its effect comes about in another way: a note."},
		{NotYet, "a warning that says what will be missing; an error when nothing could be served without it, and for those marked with ! whenever they are used, because to go on without them would not be safe."},
		{Refused, "an error that says why."},
	} {
		fmt.Fprintf(&b, "- **%s**: %s\n", c.class, c.means)
	}
	for _, class := range []Class{Always, Otherwise, NotYet, Refused} {
		fmt.Fprintf(&b, "\n### %s\n\n", classWord(class))
		for _, e := range effects(class) {
			fmt.Fprintf(&b, "- **%s.** %s\n", strings.ToUpper(e.text[:1])+e.text[1:], strings.Join(e.names, " "))
		}
	}
	return b.String()
}

type effect struct {
	text  string
	names []string
}

// effects groups the options of a class by what is said about them.
func effects(class Class) []effect {
	var out []effect
	at := map[string]int{}
	for _, o := range Options() {
		if o.Class != class {
			continue
		}
		i, ok := at[o.Effect]
		if !ok {
			i = len(out)
			at[o.Effect] = i
			out = append(out, effect{text: o.Effect})
		}
		for _, n := range append([]string{o.Name}, o.Alias()...) {
			s := "`" + n + "`"
			if o.Serves == ServesGuard && o.Type != Routing {
				s += "!"
			}
			out[i].names = append(out[i].names, s)
		}
	}
	return out
}

func errorsDoc() string {
	var b strings.Builder
	b.WriteString(`# Problem codes

Made from the table in vassal/codes.go by ` + "`go test ./vassal/inifile -update`" + `; don't edit. The codes are what programs
compare: none is renamed or given another meaning. Messages and hints are for people and change.

| code | meaning |
|---|---|
`)
	for _, c := range vassal.Codes() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", c.Name, cell(c.Meaning))
	}
	return b.String()
}
