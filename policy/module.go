package policy

import (
	_ "embed"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"liege/vassal"
)

// Module is one module of policy: its rules in CIL, and the labels of its files.
type Module struct {
	Name string
	CIL  []byte
	FC   []byte // lines of file_contexts
	// Where the texts came from, for messages.
	CILFile, FCFile string
}

// BaseName is the name of the base module.
const BaseName = "liege"

//go:embed liege.cil
var baseCIL []byte

// Base is the base module. Its file contexts stand in its CIL, so that semodule
// alone installs it.
func Base() Module { return Module{Name: BaseName, CIL: baseCIL, CILFile: "liege.cil"} }

var fileStatement = regexp.MustCompile(`(?m)^\(filecon "([^"]+)" `)

// basePaths are what the base module labels.
func basePaths() []string {
	var all []string
	for _, f := range fileStatement.FindAllSubmatch(baseCIL, -1) {
		all = append(all, label{regex: string(f[1])}.stem())
	}
	return outermost(all)
}

// ID is the application's, empty for the base module.
func (m Module) ID() string {
	id, _ := strings.CutPrefix(m.Name, "webapp_")
	if m.Name == BaseName {
		return ""
	}
	return id
}

// Files are the two files' names.
func (m Module) Files() (cil, fc string) { return m.Name + ".cil", m.Name + ".fc" }

// Write writes both files to dir. A file that is there stays, unless force.
func (m Module) Write(dir string, force bool) error {
	cil, fc := m.Files()
	for _, f := range []string{cil, fc} {
		name := filepath.Join(dir, f)
		if _, err := os.Lstat(name); err == nil && !force {
			return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeModuleExists, File: name, Message: "is there already", Hint: "--force replaces it"}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, cil), m.CIL, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fc), m.FC, 0o644)
}

// Read reads a module from its .cil file; the .fc file beside it may be missing.
func Read(file string) (Module, error) {
	m := Module{Name: strings.TrimSuffix(filepath.Base(file), ".cil"), CILFile: file, FCFile: strings.TrimSuffix(file, ".cil") + ".fc"}
	if filepath.Ext(file) != ".cil" {
		return m, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, File: file, Message: "not a .cil file", Hint: "liege policy new writes one"}
	}
	if m.Name != BaseName {
		if err := CheckID(m.ID()); err != nil {
			return m, err
		}
		if !strings.HasPrefix(m.Name, "webapp_") {
			return m, &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, File: file, Message: "the file of an app's module is called webapp_ID.cil", Hint: "semodule -i installs other modules"}
		}
	}
	var err error
	if m.CIL, err = os.ReadFile(file); err != nil {
		return m, err
	}
	m.FC, err = os.ReadFile(m.FCFile)
	if errors.Is(err, fs.ErrNotExist) {
		m.FCFile = ""
		return m, nil
	}
	return m, err
}
