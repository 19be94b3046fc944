package dirmon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"liege/emperor"
	"liege/vassal"
)

// claimed is how a Monitor keeps claims: by the name in lower case.
func claimed(names map[vassal.Name]string) map[string]string {
	out := make(map[string]string, len(names))
	for name, path := range names {
		out[strings.ToLower(string(name))] = path
	}
	return out
}

// snapshot gives every file its name. Who has a name keeps it; of those that
// come at once an operator's file is first, then the path decides: nobody
// takes another's name by a file that sorts before it.
func (s *scanner) snapshot() emperor.Snapshot {
	m := s.m
	snap := emperor.Snapshot{Partial: s.partial, Unseen: slices.Concat(slices.Collect(maps.Values(s.failed))...)}
	paths := sortedKeys(m.entries)
	slices.SortStableFunc(paths, func(a, b string) int {
		return cmp.Compare(rank(m, a), rank(m, b))
	})
	claims := s.standing(&snap)
	for _, p := range paths {
		e := m.entries[p]
		if !e.counts { // what it will be is not known
			snap.Partial, snap.Unseen = true, append(snap.Unseen, p)
			continue
		}
		f := e.file
		n, bad := nameOf(e.raw, p)
		f.Name = n
		key := strings.ToLower(string(n))
		if other, ok := claims[key]; bad == nil && ok && other != p {
			raw := string(n)
			if o := m.entries[other]; o != nil {
				raw = o.raw
			}
			bad = clash(p, other, string(n), raw)
		}
		if bad != nil {
			f.NoVassal, f.Problem, f.Text = true, bad, nil
			f.Path = clean(p)
		} else {
			claims[key] = p
		}
		snap.Files = append(snap.Files, f)
	}
	m.claims = claims
	slices.SortFunc(snap.Files, func(a, b emperor.File) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Path, b.Path))
	})
	slices.SortFunc(s.skipped, func(a, b vassal.Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Message, b.Message))
	})
	snap.Skipped = s.skipped
	slices.Sort(snap.Unseen)
	return snap
}

// standing are the claims of files that are not known yet: they are not at rest, or
// may lie where a look failed. Nobody takes their names meanwhile.
func (s *scanner) standing(snap *emperor.Snapshot) map[string]string {
	claims := map[string]string{}
	for key, p := range s.m.claims {
		if e := s.m.entries[p]; e == nil && s.partial && snap.MayHold(p) || e != nil && !e.counts {
			claims[key] = p
		}
	}
	return claims
}

// rank orders claims: 0 has the name, 1 is the operator's, 2 is a tenant's.
func rank(m *Monitor, p string) int {
	e := m.entries[p]
	switch {
	case m.claims[strings.ToLower(e.raw)] == p:
		return 0
	case e.file.Problem == nil && e.file.Trust.Operator:
		return 1
	}
	return 2
}

func clash(p, other, name, otherName string) *vassal.Problem {
	if name != otherName {
		return problem(p, vassal.CodeSameName, fmt.Sprintf("its name %s differs only in case from %s of %s, which has it", name, clean(otherName), clean(other)), "rename one of them")
	}
	return problem(p, vassal.CodeSameName, fmt.Sprintf("its name %s is that of %s, which has it", name, clean(other)), "rename one of them")
}
