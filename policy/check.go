package policy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"liege/vassal"
)

// Check compiles the modules together with everything that is installed, and
// has the compiler prove their assertions and ours. Installed modules of the
// same names are left out. The error is a vassal.Problems.
func (s *Store) Check(ctx context.Context, modules ...Module) error {
	if err := need("secilc"); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "liege-policy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c := compilation{dir: dir, from: map[string]source{}}
	if err := c.add(s, modules); err != nil {
		return err
	}
	args := append([]string{"-m", "-o", filepath.Join(dir, "policy"), "-f", filepath.Join(dir, "contexts")}, c.files...)
	err = run(ctx, "secilc", args...)
	if bad, ok := errors.AsType[*toolError](err); ok {
		return c.explain(bad)
	}
	return err
}

// A compilation is one run of secilc: its files, and where each came from.
type compilation struct {
	dir   string
	files []string
	from  map[string]source // by base name
	texts []text
}

// text is what is compiled of a module.
type text struct {
	name string
	text []byte
}

// source is what a person knows a compiled file by.
type source struct {
	file  string
	app   bool   // one that is being checked
	fc    string // of the file contexts that were appended
	lines int    // lines of text; the file contexts' begin after them
	fcAt  []int  // their lines in the .fc file
}

func (c *compilation) add(s *Store, modules []Module) error {
	installed, err := s.modules()
	if err != nil {
		return err
	}
	all := slices.Clone(modules)
	if !slices.ContainsFunc(all, func(m Module) bool { return m.Name == BaseName }) {
		all = append(all, Base())
	}
	for _, m := range installed {
		if slices.ContainsFunc(all, func(x Module) bool { return x.Name == m.name }) {
			continue
		}
		body, err := m.cil()
		if err != nil {
			return err
		}
		if err := c.write(m.name, body, source{file: "module " + m.name + " of the installed policy"}); err != nil {
			return err
		}
	}
	for _, m := range all {
		if err := c.addModule(m); err != nil {
			return err
		}
	}
	if ps := slices.Concat(c.clashes(modules), c.ports(modules), permissives(modules)); len(ps) > 0 {
		return ps
	}
	if ps := c.categories(modules); len(ps) > 0 {
		return ps
	}
	proof := c.proof()
	return c.write("liege-proof", proof, source{file: "the assertions of liege policy check"})
}

// addModule adds a module with its file contexts, so that these are proved too.
func (c *compilation) addModule(m Module) error {
	src := source{file: m.CILFile, app: true, fc: m.FCFile}
	if src.file == "" {
		src.file = m.Name + ".cil"
	}
	body := bytes.Clone(m.CIL)
	if len(body) > 0 && body[len(body)-1] != '\n' {
		body = append(body, '\n')
	}
	src.lines = bytes.Count(body, []byte("\n"))
	labels, err := m.labels()
	if err != nil {
		return err
	}
	for _, l := range labels {
		body = append(body, l.cil()+"\n"...)
		src.fcAt = append(src.fcAt, l.line)
	}
	return c.write(m.Name, body, src)
}

// labels are the module's file contexts; a mistake in them names the file.
func (m Module) labels() ([]label, error) {
	labels, err := parseFC(m.FC)
	if ps, ok := errors.AsType[vassal.Problems](err); ok {
		for i := range ps {
			ps[i].File = m.FCFile
		}
		return nil, ps
	}
	return labels, err
}

func (c *compilation) write(name string, body []byte, src source) error {
	file := filepath.Join(c.dir, name+".cil")
	c.files = append(c.files, file)
	c.from[name+".cil"] = src
	c.texts = append(c.texts, text{name, body})
	return os.WriteFile(file, body, 0o600)
}

var typeStatement = regexp.MustCompile(`(?m)^\s*\(type (\S+?)\)`)

// proof is a module of assertions about every app's module, installed or
// checked: those in the modules themselves may have been edited away.
func (c *compilation) proof() []byte {
	var b bytes.Buffer
	for _, m := range c.texts {
		id, ok := strings.CutPrefix(m.name, "webapp_")
		if !ok || CheckID(id) != nil {
			continue
		}
		var own []string
		domain := false
		for _, t := range typeStatement.FindAllSubmatch(m.text, -1) {
			if string(t[1]) == Domain(id) {
				domain = true
				continue
			}
			own = append(own, string(t[1]))
		}
		if !domain || len(own) == 0 {
			continue
		}
		p := "liege_proof_" + id
		fmt.Fprintf(&b, "(typeattributeset liege_app (%s))\n", Domain(id))
		fmt.Fprintf(&b, "(typeattribute %s_own)\n(typeattributeset %s_own (%s))\n", p, p, strings.Join(own, " "))
		fmt.Fprintf(&b, "(typeattribute %s_foreign)\n(typeattributeset %s_foreign (and webapp_file (not %s_own)))\n", p, p, p)
		fmt.Fprintf(&b, "(typeattribute %s_others)\n(typeattributeset %s_others (and webapp_domain (not %s)))\n", p, p, Domain(id))
		fmt.Fprintf(&b, "(call webapp_assert (%s %s_own %s_foreign %s_others))\n", Domain(id), p, p, p)
	}
	return b.Bytes()
}

// clashes finds types that another module declares as well: the compiler makes
// one type of the two.
func (c *compilation) clashes(checked []Module) vassal.Problems {
	var ps vassal.Problems
	for _, m := range checked {
		for _, at := range typeStatement.FindAllSubmatchIndex(m.CIL, -1) {
			statement := bytes.TrimSpace(m.CIL[at[0]:at[1]])
			i := slices.IndexFunc(c.texts, func(x text) bool { return x.name != m.Name && bytes.Contains(x.text, statement) })
			if i < 0 {
				continue
			}
			ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, File: m.CILFile, Line: 1 + bytes.Count(m.CIL[:at[2]], []byte("\n")),
				Message: fmt.Sprintf("type %s: the module %s has it already", m.CIL[at[2]:at[3]], c.texts[i].name), Hint: "take another ID"})
		}
	}
	return ps
}

var portStatement = regexp.MustCompile(`\(portcon (\w+) (\d+|\(\d+ \d+\)) \(\S+ \S+ (\S+) `)

// ports finds ports that two types claim. The compiler takes the first of them
// and says nothing.
func (c *compilation) ports(checked []Module) vassal.Problems {
	owner := map[string]string{}
	for _, m := range c.texts {
		if slices.ContainsFunc(checked, func(x Module) bool { return x.Name == m.name }) {
			continue
		}
		for _, p := range portStatement.FindAllSubmatch(m.text, -1) {
			owner[string(p[1])+" "+string(p[2])] = string(p[3])
		}
	}
	var ps vassal.Problems
	for _, m := range checked {
		n := 0
		for line := range bytes.Lines(m.CIL) {
			n++
			for _, p := range portStatement.FindAllSubmatch(line, -1) {
				key := string(p[1]) + " " + string(p[2])
				have, taken := owner[key]
				owner[key] = string(p[3])
				if !taken || have == string(p[3]) || m.Name == BaseName {
					continue
				}
				ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodePortTaken, File: m.CILFile, Line: n,
					Message: fmt.Sprintf("port %s: it is %s in the policy", key, have),
					Hint:    "leave the port out: every app may listen on http_port_t, http_cache_port_t and ports without a service; to connect to it, use --allow"})
			}
		}
	}
	return ps
}

var permissiveStatement = regexp.MustCompile(`(?m)^\s*(\(typepermissive \S+?\))`)

// permissives finds a module that makes a domain permissive: a fence that only
// writes down who climbs it. No assertion can say so.
func permissives(checked []Module) vassal.Problems {
	var ps vassal.Problems
	for _, m := range checked {
		for _, at := range permissiveStatement.FindAllSubmatchIndex(m.CIL, -1) {
			ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeAssertion, File: m.CILFile, Line: 1 + bytes.Count(m.CIL[:at[2]], []byte("\n")),
				Message: string(m.CIL[at[2]:at[3]]) + ": nothing would be enforced for this domain", Hint: "semanage permissive -a, for as long as you look for what is denied"})
		}
	}
	return ps
}

// categories finds a module that relies on categories where the policy gives
// them no meaning (KERNEL 11).
func (c *compilation) categories(checked []Module) vassal.Problems {
	var ps vassal.Problems
	for _, m := range checked {
		at := bytes.Index(m.CIL, []byte("(typeattributeset mcs_constrained_type"))
		if at < 0 || m.Name == BaseName || c.constrains("file") && c.constrains("process") {
			continue
		}
		ps = append(ps, vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoCategories, File: m.CILFile, Line: 1 + bytes.Count(m.CIL[:at], []byte("\n")),
			Message: "the installed policy constrains no domain by categories (mcs_constrained_type): they would part nobody", Hint: "make one module per app, without --mcs"})
	}
	return ps
}

func (c *compilation) constrains(class string) bool {
	rule := regexp.MustCompile(`(?m)^\s*\(mlsconstrain \(` + class + ` .*\bmcs_constrained_type\b`)
	return slices.ContainsFunc(c.texts, func(m text) bool { return rule.Match(m.text) })
}
