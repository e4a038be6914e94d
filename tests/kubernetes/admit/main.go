// Puts pods through Kubernetes' own admission code: the MutatingAdmissionPolicy plugin of the API server with its selectors,
// match conditions and patches, and the chain that calls it a second time when another plugin has changed the pod.
//
//	admit OUT POLICIES... -- CASES...
//
// A case is a file with a Namespace, a Pod, and perhaps a second Pod: what a webhook adds after the policies have run (as Istio's
// does), merged as kubectl would. For each case, OUT/CASE gets the pod as it would be stored, or the error. Around it is no server: the
// defaults of a stored pod are missing, and nothing else validates it.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	_ "unsafe" // for go:linkname

	admissionregistration "k8s.io/api/admissionregistration/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	labels "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/policy/generic"
	"k8s.io/apiserver/pkg/admission/plugin/policy/matching"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/discovery"
	clients "k8s.io/client-go/dynamic"
	dynamic "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi/openapitest"
	"sigs.k8s.io/yaml"
)

// The fake client has no schemas.
type client struct{ kubernetes.Interface }
type schemas struct{ discovery.DiscoveryInterface }

func (c client) Discovery() discovery.DiscoveryInterface { return schemas{c.Interface.Discovery()} }
func (client) IsWatchListSemanticsUnSupported() bool     { return true } // as the fake one says of itself
func (schemas) OpenAPIV3() openapi.Client                { return openapitest.NewEmbeddedFileClient() }

//go:linkname compilePolicy k8s.io/apiserver/pkg/admission/plugin/policy/mutating.compilePolicy
func compilePolicy(*mutating.Policy) mutating.PolicyEvaluator

// The plugin as it makes itself, with one difference: a pod's schema is that of the release's own clients, since no server is there to
// ask for it.
func plugin(io.Reader) (admission.Interface, error) {
	policies := func(f informers.SharedInformerFactory, _ kubernetes.Interface, c clients.Interface, m meta.RESTMapper) generic.Source[mutating.PolicyHook] {
		kinds := f.Admissionregistration().V1()
		return generic.NewPolicySource(
			kinds.MutatingAdmissionPolicies().Informer(), kinds.MutatingAdmissionPolicyBindings().Informer(),
			mutating.NewMutatingAdmissionPolicyAccessor, mutating.NewMutatingAdmissionPolicyBindingAccessor, compilePolicy, f, c, m)
	}
	types := applyconfigurations.NewTypeConverter(scheme.Scheme)
	dispatcher := func(a authorizer.Authorizer, m *matching.Matcher, c kubernetes.Interface) generic.Dispatcher[mutating.PolicyHook] {
		return mutating.NewDispatcher(a, m, patch.NewTypeConverterManager(types, c.Discovery().OpenAPIV3()))
	}
	handler := admission.NewHandler(admission.Create, admission.Update, admission.Connect)
	return &mutating.Plugin{Plugin: generic.NewPlugin(handler, policies, dispatcher)}, nil
}

// The webhook: it comes after the policies, as in the API server.
type webhook struct {
	*admission.Handler
	adds *core.Pod
}

func (w *webhook) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if w.adds == nil || a.GetReinvocationContext().IsReinvoke() {
		return nil
	}
	pod := a.GetObject().(*core.Pod)
	merged, err := strategicpatch.StrategicMergePatch(marshalled(pod), marshalled(w.adds), core.Pod{})
	if err != nil {
		return err
	}
	after := &core.Pod{TypeMeta: pod.TypeMeta}
	if err := json.Unmarshal(merged, after); err != nil {
		return err
	}
	after.TypeMeta = pod.TypeMeta
	if !equality.Semantic.DeepEqual(pod, after) {
		after.DeepCopyInto(pod)
		a.GetReinvocationContext().SetShouldReinvoke()
	}
	return nil
}

// A field that says nothing must not take away what is there.
func marshalled(pod *core.Pod) []byte {
	text, err := json.Marshal(pod)
	must(err)
	var fields map[string]any
	must(json.Unmarshal(text, &fields))
	delete(fields, "status")
	spec, _ := fields["spec"].(map[string]any)
	if list, found := spec["containers"]; found && list == nil {
		delete(spec, "containers")
	}
	text, err = json.Marshal(fields)
	must(err)
	return text
}

type unconfigured struct{}

func (unconfigured) ConfigFor(string) (io.Reader, error) { return nil, nil }

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Every object of a file; a field that Kubernetes does not know is an error.
func read(file string) []runtime.Object {
	text, err := os.ReadFile(file)
	must(err)
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, document := range strings.Split("\n"+string(text), "\n---\n") {
		var filled any
		if yaml.Unmarshal([]byte(document), &filled) == nil && filled == nil {
			continue
		}
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			must(fmt.Errorf("%s: %w", file, err))
		}
		objects = append(objects, object)
	}
	return objects
}

type request struct {
	file      string
	namespace *core.Namespace
	pod       *core.Pod
	adds      *core.Pod
}

func requested(file string) request {
	asked := request{file: file}
	for _, object := range read(file) {
		switch object := object.(type) {
		case *core.Namespace:
			object.Name = strings.TrimSuffix(filepath.Base(file), ".yaml")
			asked.namespace = object
		case *core.Pod:
			if asked.pod == nil {
				asked.pod = object
			} else {
				asked.adds = object
			}
		}
	}
	if asked.namespace == nil || asked.pod == nil {
		must(fmt.Errorf("%s: a Namespace and a Pod are needed", file))
	}
	asked.pod.Namespace = asked.namespace.Name
	return asked
}

func main() {
	out, arguments := os.Args[1], os.Args[2:]
	var known []runtime.Object
	for arguments[0] != "--" {
		for _, object := range read(arguments[0]) {
			switch object := object.(type) {
			case *admissionregistration.MutatingAdmissionPolicy:
				defaulted(object.Spec.MatchConstraints)
				known = append(known, object)
			case *admissionregistration.MutatingAdmissionPolicyBinding:
				if object.Spec.MatchResources == nil {
					object.Spec.MatchResources = &admissionregistration.MatchResources{}
				}
				defaulted(object.Spec.MatchResources)
				known = append(known, object)
			}
		}
		arguments = arguments[1:]
	}
	var requests []request
	for _, file := range arguments[1:] {
		asked := requested(file)
		known = append(known, asked.namespace)
		requests = append(requests, asked)
	}

	server := client{fake.NewClientset(known...)}
	informer := informers.NewSharedInformerFactory(server, 0)
	stop := make(chan struct{})
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(core.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	initial := initializer.New(server, dynamic.NewSimpleDynamicClient(scheme.Scheme), informer,
		authorizerfactory.NewAlwaysAllowAuthorizer(), utilfeature.DefaultFeatureGate, nil, stop, mapper)
	other := &webhook{Handler: admission.NewHandler(admission.Create)}
	plugins := admission.NewPlugins()
	plugins.Register(mutating.PluginName, plugin)
	plugins.Register("Webhook", func(io.Reader) (admission.Interface, error) { return other, nil })
	chain, err := plugins.NewFromPlugins([]string{mutating.PluginName, "Webhook"}, unconfigured{}, initial, nil)
	must(err)
	informer.Start(stop)
	informer.WaitForCacheSync(stop)
	for _, asked := range requests {
		other.adds = asked.adds
		pod := asked.pod.DeepCopy()
		err := admitted(chain, asked.namespace.Name, pod)
		text := ""
		switch {
		case err != nil:
			text = "# refused: " + strings.ReplaceAll(err.Error(), "\n", "\n# ") + "\n"
		default:
			// The same pod once more, as a webhook's own client or a copied manifest would send it.
			other.adds = nil
			again := pod.DeepCopy()
			if err := admitted(chain, asked.namespace.Name, again); err != nil {
				text = "# refused when it comes again: " + err.Error() + "\n"
			} else if !equality.Semantic.DeepEqual(pod, again) {
				text = "# changed when it comes again\n"
			}
			if equality.Semantic.DeepEqual(pod, asked.pod) {
				text += "# left as it is\n"
			}
			pod.Namespace, pod.TypeMeta = "", asked.pod.TypeMeta
			stored, err := yaml.Marshal(pod)
			must(err)
			text += strings.NewReplacer("status: {}\n", "", "  creationTimestamp: null\n", "", "    resources: {}\n", "").Replace(string(stored))
		}
		must(os.WriteFile(filepath.Join(out, filepath.Base(asked.file)), []byte(text), 0o644))
	}
}

func admitted(chain admission.Interface, namespace string, pod *core.Pod) error {
	pod.Namespace = namespace
	attributes := admission.NewAttributesRecord(pod, nil, core.SchemeGroupVersion.WithKind("Pod"), namespace, pod.Name,
		core.SchemeGroupVersion.WithResource("pods"), "", admission.Create, nil, false, &user.DefaultInfo{Name: "test"})
	return chain.(admission.MutationInterface).Admit(context.Background(), attributes, admission.NewObjectInterfacesFromScheme(scheme.Scheme))
}

// What the API server fills in.
func defaulted(match *admissionregistration.MatchResources) {
	if match == nil {
		return
	}
	all, equivalent := admissionregistration.AllScopes, admissionregistration.Equivalent
	if match.MatchPolicy == nil {
		match.MatchPolicy = &equivalent
	}
	if match.NamespaceSelector == nil {
		match.NamespaceSelector = &labels.LabelSelector{}
	}
	if match.ObjectSelector == nil {
		match.ObjectSelector = &labels.LabelSelector{}
	}
	for i := range match.ResourceRules {
		if match.ResourceRules[i].Scope == nil {
			match.ResourceRules[i].Scope = &all
		}
	}
}
