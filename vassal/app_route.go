package vassal

// Routing is uWSGI's internal routing and what goes with it: rules that look
// at a request, or at its answer, and act. Package vassal/route makes rules of
// a file's lines and says what is wrong with them; package serve/route carries
// them out.
type Routing struct {
	Request  []Rule       `json:"request,omitempty"`  // route…: before the application or a static file
	Error    []Rule       `json:"error,omitempty"`    // error-route…: whenever a status is set
	Response []Rule       `json:"response,omitempty"` // response-route…: when the head of an answer is complete
	Final    []Rule       `json:"final,omitempty"`    // final-route…: after the answer
	Collect  []HeaderVar  `json:"collect,omitempty"`  // collect-header and pull-header
	Add      []HeaderLine `json:"add,omitempty"`      // add-header
	Remove   []string     `json:"remove,omitempty"`   // rem-header: names
}

// Empty reports whether r changes nothing.
func (r *Routing) Empty() bool {
	return r == nil || len(r.Request)+len(r.Error)+len(r.Response)+len(r.Final)+len(r.Collect)+len(r.Add)+len(r.Remove) == 0
}

// Rule is one line of a chain. Rules are numbered from 0 in the order of the
// file; a label is a rule that does nothing. At most one of Subject and
// Condition is set; with neither the rule always applies.
type Rule struct {
	Label     string `json:"label,omitempty"`
	Subject   string `json:"subject,omitempty"`   // the variable that Regexp is matched with; "status": of the answer
	Regexp    string `json:"regexp,omitempty"`    // in the syntax of package regexp
	Condition string `json:"condition,omitempty"` // of route-if and route-if-not
	Not       bool   `json:"not,omitempty"`
	Arg       string `json:"arg,omitempty"` // of the condition, without a regular expression
	Action    string `json:"action,omitempty"`
	ActionArg string `json:"action_arg,omitempty"`
	Key       string `json:"key"` // the option
	At        Origin `json:"at"`
}

// HeaderVar keeps a header field of an answer in a variable of the request.
type HeaderVar struct {
	Name string `json:"name"`
	Var  string `json:"var"`
	Pull bool   `json:"pull,omitempty"` // and takes it out of the answer
}

// HeaderLine is one field of an answer.
type HeaderLine struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}
