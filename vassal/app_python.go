package vassal

// PythonForm is how the text in Python.Module is to be read.
type PythonForm string

// The forms.
const (
	FormModule PythonForm = ""      // the name of a module
	FormEval   PythonForm = "eval"  // code that defines the application
	FormPaste  PythonForm = "paste" // a PasteDeploy URI
	FormPecan  PythonForm = "pecan" // a Pecan configuration file
)

// PythonTuning is what an application's interpreter is made to do besides.
type PythonTuning struct {
	Import       []string `json:"import,omitempty"`        // where the application is loaded, before it
	SharedImport []string `json:"shared_import,omitempty"` // once, before the workers are forked
	Alias        []string `json:"alias,omitempty"`         // pymodule-alias, NAME=MODULE or NAME=FILE
	PostAlias    []string `json:"post_alias,omitempty"`    // the same, after the application was loaded
	Optimize     int      `json:"optimize,omitempty"`      // 1: -O, 2: -OO
	NoSite       bool     `json:"no_site,omitempty"`       // -S
	Executable   string   `json:"executable,omitempty"`    // sys.executable; empty: the interpreter
	PasteLogger  bool     `json:"paste_logger,omitempty"`  // the Paste file's logging sections count

	NoFileWrapper bool     `json:"no_file_wrapper,omitempty"`
	NoDelay       bool     `json:"no_delay,omitempty"`  // the head is sent by start_response
	Show          bool     `json:"show,omitempty"`      // catch-exceptions: clients get the traceback
	ReloadOn      []string `json:"reload_on,omitempty"` // "any", "type NAME", "value TEXT", "repr TEXT": of an exception after which a worker is replaced
}
