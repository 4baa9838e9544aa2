{{ config(materialized='table', notes={'of': ['first']}, meta={'level': 1}) }}
{{ note() }}
select '{{ graph.get('kept', {}).get('names', []) | join(',') }}' as names
