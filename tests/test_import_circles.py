import networkx as nx
import pytest

PACKAGES = ("groundwork", "sfm", "pairs", "cnnimretrieval", "experiments")


def test_no_file_imports_itself_by_way_of_others():
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = nx.DiGraph(
        (file, other) for file in graph.modules for other in graph.find_modules_directly_imported_by(file)
    )
    assert imports.has_edge("cnnimretrieval.networks.open", "cnnimretrieval.networks.reference")
    assert [sorted(circle) for circle in nx.strongly_connected_components(imports) if len(circle) > 1] == []
